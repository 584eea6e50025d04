"""The few calls to a Kubernetes API server that runs need, with this library's errors and plain mappings."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client import ApiException

from stablerep.errors import AlreadyExists, InvalidInput, NotFound, StableRepError, Unavailable
from stablerep.runs.launchers.kubernetes.manifests import JOBSET_API, Object

_SECONDS = 30
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_KINDS = {"Job": ("batch/v1", "jobs"), "JobSet": (JOBSET_API, "jobsets")}
"""API and plural of each kind."""
_MERGE = "application/merge-patch+json"


class Cluster:
    """Jobs, JobSets, services and pods of one namespace. Any thread may call.

    Raises of every call: NotFound, AlreadyExists, InvalidInput (refused by the server), Unavailable.
    """

    def __init__(self, namespace: str = "", kubeconfig: Path | None = None) -> None:
        settings = client.Configuration()
        try:
            if kubeconfig is not None:
                config.load_kube_config(str(kubeconfig), client_configuration=settings)
            else:
                config.load_incluster_config(client_configuration=settings)
        except config.ConfigException as error:
            raise InvalidInput(
                f"no cluster can be reached: {error}; set kubernetes.kubeconfig outside of one",
                field="gateway.launcher",
            ) from error
        settings.retries = False  # a loop calls again anyway
        api = client.ApiClient(settings)
        # Untyped: the client's types do not know that an answer can be had unparsed.
        self._core: Any = client.CoreV1Api(api)
        self._custom: Any = client.CustomObjectsApi(api)
        self._apis: Any = client.ApisApi(api)
        self.namespace = namespace or _own_namespace()

    def has_jobsets(self) -> bool:
        """Whether the cluster has the resource JobSet in the version that is written here."""
        group, _, version = JOBSET_API.partition("/")
        groups = self._read(self._apis.get_api_versions)["groups"]
        return any(
            each["name"] == group and any(v["version"] == version for v in each["versions"])
            for each in groups
        )

    def config_map(self, name: str) -> Object:
        return {**self._read(self._core.read_namespaced_config_map, name, self.namespace), **_CONFIG_MAP}

    def find(self, kind: str, name: str) -> Object | None:
        """A Job or JobSet, or None."""
        found = self._find(self._custom.get_namespaced_custom_object, *self._path(kind), name)
        return None if found is None else {**found, "kind": kind}

    def create(self, manifest: Object) -> Object:
        """Creates a Job or JobSet and returns it. Raises AlreadyExists."""
        create = self._custom.create_namespaced_custom_object
        return self._read(create, *self._path(manifest["kind"]), manifest)

    def create_service(self, manifest: Object) -> None:
        """Raises AlreadyExists."""
        self._read(self._core.create_namespaced_service, self.namespace, manifest)

    def annotate(self, found: Object, annotations: dict[str, str]) -> None:
        """Sets annotations of a Job or JobSet."""
        patch = self._custom.patch_namespaced_custom_object
        body = {"metadata": {"annotations": annotations}}
        self._read(patch, *self._path(found["kind"]), found["metadata"]["name"], body, _content_type=_MERGE)

    def delete(self, found: Object) -> None:
        """Deletes a Job or JobSet once its pods have ended; one that is gone is fine."""
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": found["metadata"]["uid"]}}
        delete = self._custom.delete_namespaced_custom_object
        self._find(delete, *self._path(found["kind"]), found["metadata"]["name"], body=body)

    def pods(self, selector: str) -> list[Object]:
        """Pods by label, the newest first."""
        list_pods = self._core.list_namespaced_pod
        found: list[Object] = self._read(list_pods, self.namespace, label_selector=selector)["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)

    def log(self, pod: str, container: str, *, lines: int, limit_bytes: int | None = None) -> bytes:
        """The end of what a container printed. Raises NotFound, InvalidInput before it has started."""
        with _our_errors():
            read = self._core.read_namespaced_pod_log
            data: bytes = read(
                pod,
                self.namespace,
                container=container,
                tail_lines=lines,
                limit_bytes=limit_bytes,
                _preload_content=False,
                _request_timeout=_SECONDS,
            ).data
        return data

    def follow_log(self, pod: str, container: str, *, lines: int) -> Iterator[bytes]:
        """The same, then all that it prints until it ends or nothing came for a minute."""
        with _our_errors():
            answer = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=container,
                tail_lines=lines,
                follow=True,
                _preload_content=False,
                _request_timeout=(_SECONDS, 60),
            )
            try:
                yield from answer.stream(decode_content=False)
            except urllib3.exceptions.ReadTimeoutError:
                return
            finally:
                answer.release_conn()

    def _path(self, kind: str) -> tuple[str, str, str, str]:
        """Jobs are reached like custom resources: the client's own types refuse what the API server takes."""
        api, plural = _KINDS[kind]
        group, _, version = api.partition("/")
        return group, version, self.namespace, plural

    def _find(self, call: Callable[..., Any], *arguments: Any, **more: Any) -> Object | None:
        try:
            return self._read(call, *arguments, **more)
        except NotFound:
            return None

    def _read(self, call: Callable[..., Any], *arguments: Any, **more: Any) -> Object:
        with _our_errors():
            # Not as the client's own classes: they refuse fields that a newer server added.
            answer = call(*arguments, **more, _preload_content=False, _request_timeout=_SECONDS)
            found: Object = json.loads(answer.data)
        return found


_CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap"}


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InvalidInput("is missing outside of a cluster", field="kubernetes.namespace") from error


@contextmanager
def _our_errors() -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        raise _error(error) from error
    except urllib3.exceptions.HTTPError as error:
        raise Unavailable(f"the Kubernetes API server does not answer: {error}") from error


def _error(error: ApiException) -> StableRepError:
    try:
        text = str(json.loads(error.body or "{}").get("message", error.reason))
    except ValueError:
        text = str(error.reason)
    if error.status == 404:
        return NotFound(text)
    if error.status == 409:
        return AlreadyExists(text)
    if error.status in (400, 422):
        return InvalidInput(f"the cluster refuses: {text}", field="kubernetes")
    if error.status in (401, 403):  # rights and quotas are an operator's to change
        return Unavailable(f"the cluster refuses for now: {text}")
    return Unavailable(f"the Kubernetes API server answers {error.status}: {text}")
