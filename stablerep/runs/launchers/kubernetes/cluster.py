"""The few calls to a Kubernetes API server that runs need, with this library's errors and plain mappings."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client import ApiException

from stablerep.errors import AlreadyExists, InvalidInput, NotFound, StableRepError, Unavailable
from stablerep.runs.launchers.kubernetes.manifests import JOBSET_API, Object

_SECONDS = 30
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_JOBSETS = "jobsets"
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
        self._batch: Any = client.BatchV1Api(api)
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

    def job(self, name: str) -> Object | None:
        """A Job, or None."""
        return self._find(self._batch.read_namespaced_job, name, self.namespace)

    def jobset(self, name: str) -> Object | None:
        """A JobSet, or None."""
        return self._find(self._custom.get_namespaced_custom_object, *self._jobsets(), name)

    def create(self, manifest: Object) -> Object:
        """Creates a Job, JobSet or Service and returns it. Raises AlreadyExists."""
        create = {
            "Job": partial(self._batch.create_namespaced_job, self.namespace),
            "JobSet": partial(self._custom.create_namespaced_custom_object, *self._jobsets()),
            "Service": partial(self._core.create_namespaced_service, self.namespace),
        }[manifest["kind"]]
        return {**self._read(create, manifest), **{k: manifest[k] for k in ("apiVersion", "kind")}}

    def annotate(self, found: Object, annotations: dict[str, str]) -> None:
        """Sets annotations of a Job or JobSet."""
        body = {"metadata": {"annotations": annotations}}
        name = found["metadata"]["name"]
        if found["kind"] == "JobSet":
            patch = partial(self._custom.patch_namespaced_custom_object, *self._jobsets())
            self._read(patch, name, body, _content_type=_MERGE)
        else:
            self._read(self._batch.patch_namespaced_job, name, self.namespace, body)

    def delete(self, found: Object) -> None:
        """Deletes a Job or JobSet once its pods have ended; one that is gone is fine."""
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": found["metadata"]["uid"]}}
        name = found["metadata"]["name"]
        if found["kind"] == "JobSet":
            delete = partial(self._custom.delete_namespaced_custom_object, *self._jobsets(), name)
        else:
            delete = partial(self._batch.delete_namespaced_job, name, self.namespace)
        self._find(delete, body=body)

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

    def _jobsets(self) -> tuple[str, str, str, str]:
        group, _, version = JOBSET_API.partition("/")
        return group, version, self.namespace, _JOBSETS

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
