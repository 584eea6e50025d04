"""Carries out runs as jobs of a cluster: what is there is compared with what the store says, and made equal.

Nothing is kept in this process: another gateway, or this one after a restart, goes on from the store and the
cluster. Two at once do no harm: objects have the run's name, and the first to create one wins.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from stablerep.errors import AlreadyExists, InvalidInput, NotFound, Unavailable
from stablerep.runs.launchers.kubernetes.cluster import Cluster
from stablerep.runs.launchers.kubernetes.manifests import (
    CONTAINER,
    INDEX_LABEL,
    JOB_NAME_LABEL,
    REPLICATED_JOB,
    RUN_ANNOTATION,
    START_ANNOTATION,
    ClusterTemplate,
    Object,
    job,
    job_name,
    jobset,
    owner_of,
    service,
)
from stablerep.runs.launchers.stored_logs import stored_log
from stablerep.runs.records import (
    CreateRecord,
    EndRecord,
    StatusRecord,
    end_run,
    log_key,
    read_create,
    read_end,
    read_progress,
    read_spec,
    read_status,
    release_run,
    resumed_times,
    write_status,
)
from stablerep.storage.interface import Store

logger = logging.getLogger("stablerep.runs")
_LINES = 10_000
MAX_LOG_BYTES = 1 << 20
MAX_LOGGED_NODES = 8
"""Machines whose logs are kept: the first ones say what went wrong for all."""
_POLL_SECONDS = 2.0
JOBSETS_SECONDS = 30.0
"""How old the answer may be whether the cluster has JobSets."""


@dataclass(frozen=True)
class _Ended:
    """How a Job or JobSet ended, as its conditions say."""

    succeeded: bool
    text: str


class KubernetesLauncher:
    """A `RunLauncher` on a cluster. `template` says what all pods share."""

    def __init__(self, store: Store, cluster: Cluster, template: ClusterTemplate) -> None:
        self._store, self._cluster, self._template = store, cluster, template
        self._jobsets = (float("-inf"), False)

    def sync(self, record: CreateRecord) -> None:
        """One step of the run's job towards what the store says; called every few seconds."""
        run = record.spec.run
        found, end = self._find(run), read_end(self._store, run)
        if not self._is_current(record):
            return
        if end is not None:
            self._clean_up(record, found, end)
        elif found is None:
            self._start(record)
        elif found["metadata"].get("deletionTimestamp"):
            self._show(run, running=False, message="its former processes are ending")
        elif not self._is_of(found, record):
            self._cluster.delete(found)
        elif (ended := _ended(found)) is not None:
            self._keep_logs(record)
            end_run(self._store, run, "SUCCEEDED" if ended.succeeded else "FAILED", ended.text)
        else:
            self._report(record, found)

    def logs(self, run: str, node: int, lines: int, *, follow: bool) -> Iterator[str]:
        """A pod's log while there is one, else what the store kept of it. Raises NotFound."""
        read_spec(self._store, run)
        while (pod := self._pod(run, node)) is None:
            if not follow or read_end(self._store, run) is not None:
                yield from stored_log(self._store, run, node, lines)
                return
            time.sleep(_POLL_SECONDS)
        if not follow:
            yield self._cluster.log(pod, CONTAINER, lines=lines).decode(errors="replace")
            return
        while True:
            yield from self._follow(pod, lines)
            if read_end(self._store, run) is not None:
                return
            time.sleep(_POLL_SECONDS)
            newer = self._pod(run, node)
            pod, lines = newer or pod, _LINES if newer not in (None, pod) else 0

    def _follow(self, pod: str, lines: int) -> Iterator[str]:
        rest = b""
        try:
            for chunk in self._cluster.follow_log(pod, CONTAINER, lines=lines):
                whole, newline, rest = (rest + chunk).rpartition(b"\n")
                if newline:
                    yield (whole + newline).decode(errors="replace")
        except (NotFound, InvalidInput):  # the pod has not started yet, or is gone
            return
        if rest:
            yield rest.decode(errors="replace")

    def _start(self, record: CreateRecord) -> None:
        spec, start = record.spec, self._start_of(record)
        try:
            if self._has_jobsets:
                created = self._cluster.create(jobset(spec, self._template, start))
            else:
                created = self._cluster.create(job(spec, self._template, start))
                self._serve(record, created)
        except AlreadyExists:  # another gateway was faster
            return
        except InvalidInput as error:
            end_run(self._store, spec.run, "FAILED", str(error))
            return
        except Unavailable as error:  # a quota, rights, or an API server that is down
            self._show(spec.run, running=False, message=str(error))
            raise
        if read_end(self._store, spec.run) is not None or not self._is_current(record):
            self._cluster.delete(created)  # over meanwhile, and nobody may look after it any more
            return
        logger.info("run %s: created %s", spec.run, job_name(spec.run))
        self._show(spec.run, running=False, message="its pods are created")

    def _serve(self, record: CreateRecord, found: Object) -> None:
        """The headless service of an Indexed Job of several machines; one that is there is fine."""
        if record.spec.resources.nodes > 1:
            try:
                self._cluster.create_service(service(record.spec, self._template, owner_of(found)))
            except AlreadyExists:
                return

    def _report(self, record: CreateRecord, found: Object) -> None:
        run, status = record.spec.run, found.get("status", {})
        if found["kind"] == "Job":
            self._serve(record, found)  # the gateway may have died between the two
        pods = self._cluster.pods(self._selector(run))
        running = [pod for pod in pods if pod["status"].get("phase") == "Running"]
        restarts = int(status.get("restarts", 0) or status.get("failed", 0))
        nodes = record.spec.resources.nodes
        where = f"{found['kind'].lower()} {found['metadata']['namespace']}/{found['metadata']['name']}"
        message = f"{where}: {len(running)} of {nodes} pods run"
        if found["spec"].get("suspend"):
            message = f"{where} is suspended; the queue {record.spec.queue or '(none)'} starts it"
        elif len(running) < nodes and (why := _why_waiting(pods)):
            message += f"; {why}"
        self._show(run, running=bool(running), message=message, restarts=restarts)
        self._annotate(run, found)

    def _annotate(self, run: str, found: Object) -> None:
        """Where the run stands, for `kubectl describe`."""
        progress = read_progress(self._store, run)
        if progress is None:
            return
        facts = {
            "stablerep.io/progress": f"{progress.step}/{progress.steps}",
            "stablerep.io/loss": "" if progress.loss is None else f"{progress.loss:.4f}",
            "stablerep.io/expected-end": _iso(progress.expected_end_time),
        }
        there = found["metadata"].get("annotations", {})
        if any(there.get(key) != value for key, value in facts.items()):
            self._cluster.annotate(found, facts)

    def _clean_up(self, record: CreateRecord, found: Object | None, end: EndRecord) -> None:
        """After the end: what was cancelled is deleted, what has run to its end is left to its ttl."""
        run = record.spec.run
        if found is None:
            self._show(run, running=False, message="")
            release_run(self._store, run)
        elif found["metadata"].get("deletionTimestamp"):
            return  # its pods write their checkpoints
        elif _ended(found) is not None and self._is_of(found, record):
            self._annotate(run, found)
            self._keep_logs(record)
            self._show(run, running=False, message="")
            release_run(self._store, run)
        elif end.state == "CANCELLED":
            self._keep_logs(record)
            self._cluster.delete(found)
        # Else its processes have written the end themselves, and are about to exit.

    def _keep_logs(self, record: CreateRecord) -> None:
        """Copies the end of what the first machines printed: pods and their logs do not last."""
        run = record.spec.run
        for node in range(min(record.spec.resources.nodes, MAX_LOGGED_NODES)):
            try:
                pod = self._pod(run, node)
                if pod is not None:
                    log = self._cluster.log(pod, CONTAINER, lines=_LINES, limit_bytes=MAX_LOG_BYTES)
                    self._store.put(log_key(run, node), log)
            except (NotFound, InvalidInput, Unavailable) as error:  # it never started, or its node is gone
                logger.info("run %s: no log of machine %d: %s", run, node, error)

    def _show(self, run: str, *, running: bool, message: str, restarts: int | None = None) -> None:
        before = read_status(self._store, run)
        if restarts is None:
            restarts = before.restarts if before else 0
        started = before.start_time if before else None
        if running and started is None:
            progress = read_progress(self._store, run)
            started = progress.time if progress else None
        status = StatusRecord(running=running, message=message, restarts=restarts, start_time=started)
        if status != before:
            write_status(self._store, run, status)

    def _find(self, run: str) -> Object | None:
        name = job_name(run)
        found = self._cluster.find("JobSet", name) if self._has_jobsets else None
        return found or self._cluster.find("Job", name)

    def _is_current(self, record: CreateRecord) -> bool:
        """Whether the run is still the one of this record, which beside another gateway may be an old one.

        Ask after reading the run's end: a deletion removes that one last.
        """
        return read_create(self._store, record.spec.run) == record

    def _start_of(self, record: CreateRecord) -> str:
        return f"{record.create_time.isoformat()} {resumed_times(self._store, record.spec.run)}"

    def _is_of(self, found: Object, record: CreateRecord) -> bool:
        """Whether a job is that of this run, not of before a resume, nor of a deleted run of its name."""
        annotations = found["metadata"].get("annotations", {})
        start = (annotations.get(RUN_ANNOTATION), annotations.get(START_ANNOTATION))
        return start == (record.spec.run, self._start_of(record))

    def _selector(self, run: str) -> str:
        name = job_name(run)
        return f"{JOB_NAME_LABEL} in ({name}, {name}-{REPLICATED_JOB}-0)"

    def _pod(self, run: str, node: int) -> str | None:
        pods = self._cluster.pods(f"{self._selector(run)},{INDEX_LABEL}={node}")
        return str(pods[0]["metadata"]["name"]) if pods else None

    @property
    def _has_jobsets(self) -> bool:
        """Whether the cluster has JobSets; an operator may install them while this process runs."""
        asked, answer = self._jobsets
        if time.monotonic() - asked > JOBSETS_SECONDS:
            answer = self._cluster.has_jobsets()
            self._jobsets = (time.monotonic(), answer)
        return answer


def _ended(found: Object) -> _Ended | None:
    for condition in found.get("status", {}).get("conditions", []):
        if condition["status"] != "True":
            continue
        if condition["type"] in ("Complete", "Completed"):
            return _Ended(True, "")
        if condition["type"] == "Failed":
            return _Ended(False, f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": "))
    return None


def _why_waiting(pods: list[Object]) -> str:
    """What keeps a pod from running, as the scheduler or the node says."""
    for pod in pods:
        status = pod["status"]
        if status.get("phase") != "Pending":
            continue
        for container in status.get("containerStatuses", []) + status.get("initContainerStatuses", []):
            waiting = container.get("state", {}).get("waiting", {})
            if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
                return f"{waiting['reason']}: {waiting.get('message', '')}"
        for condition in status.get("conditions", []):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f"{condition.get('reason', '')}: {condition.get('message', '')}"
    return ""


def _iso(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else ""
