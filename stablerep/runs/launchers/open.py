"""The launcher that the settings name."""

from pathlib import Path

from stablerep.config.loading import read_mapping
from stablerep.config.settings import Settings
from stablerep.errors import InvalidInput
from stablerep.runs.launchers.interface import RunLauncher
from stablerep.runs.launchers.stored_logs import LocalLauncher
from stablerep.storage.interface import Store


def open_launcher(settings: Settings, store: Store) -> RunLauncher:
    """Raises InvalidInput: no cluster, no pod template, or no owner of that name."""
    if settings.gateway.launcher == "local":
        return LocalLauncher(store)
    # The package takes two seconds to import, and only a gateway of a cluster has it.
    try:
        from stablerep.runs.launchers.kubernetes.cluster import Cluster
        from stablerep.runs.launchers.kubernetes.launcher import KubernetesLauncher
        from stablerep.runs.launchers.kubernetes.manifests import ClusterTemplate, owner_of
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"needs the package {error.name}: pip install 'stablerep[kubernetes]'", field="gateway.launcher"
        ) from error

    chosen = settings.kubernetes
    if chosen.pod_template is None:
        raise InvalidInput(
            "is missing; gateway.launcher=kubernetes needs it", field="kubernetes.pod_template"
        )
    cluster = Cluster(chosen.namespace, chosen.kubeconfig)
    owner = owner_of(cluster.config_map(chosen.owner)) if chosen.owner else {}
    pod = read_mapping(Path(chosen.pod_template), "kubernetes.pod_template")
    template = ClusterTemplate(cluster.namespace, pod, owner, chosen.gpu_resource)
    return KubernetesLauncher(store, cluster, template)
