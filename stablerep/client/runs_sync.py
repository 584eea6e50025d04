"""The runs of a gateway: `AsyncRuns` here, and `Runs` in runs_sync.py, which is made from it."""
# Made from runs_aio.py by scripts/make_sync_client.py: change that and run it again.

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stablerep.client.channel import DELETE_SECONDS, RECONNECTS, our_errors, pause, time_left
from stablerep.client.hops.sync import sleep
from stablerep.client.run import (
    Run,
    RunMetrics,
    create_request,
    probe_message,
    read_metrics,
    read_run,
    run_name,
    training_message,
)
from stablerep.errors import DeadlineExceeded, Unavailable
from stablerep.v1 import training_pb2 as pb
from stablerep.v1 import training_pb2_grpc as rpc


class Runs:
    """What `AsyncClient.runs` is; the errors of its methods are those of the client's."""

    def __init__(self, channel: Any, metadata: Any, timeout: float) -> None:
        self._stub = rpc.TrainingServiceStub(channel)
        self._metadata, self._timeout = metadata, timeout

    def train(
        self,
        run: str,
        datasets: Sequence[str],
        *,
        preset: str | Path = "",
        config: Mapping[str, Any] | None = None,
        nodes: int = 0,
        gpus_per_node: int = 0,
        processes_per_node: int = 0,
        launcher: str = "",
        ttl_seconds: int = 0,
        deadline_seconds: int = 0,
        max_restarts: int = 0,
        queue: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> Run:
        """Creates a run that trains an encoder; the same call again gives the same run.

        Args:
            datasets: names of datasets in the gateway's store, or their URLs.
            preset: where unset settings come from; or a YAML file on this machine.
            config: overrides by dotted key, e.g. `{"optimizer.lr": 1e-3}`; a text is read as YAML.
            nodes: machines; gpus_per_node: of each; processes_per_node: by default one a GPU, else 1.
            launcher: local or kubernetes, refused by a gateway that does otherwise; empty: whatever it does.
            ttl_seconds: how long what has run is kept on the cluster; 0: a day.
            deadline_seconds: of running, after which it fails; 0: none.
            max_restarts: failures after which it is given up; 0: 10.
            queue: Kueue's LocalQueue.
        """
        request = create_request(
            run,
            training=training_message(datasets, preset, config),
            nodes=nodes,
            gpus_per_node=gpus_per_node,
            processes_per_node=processes_per_node,
            launcher=launcher,
            ttl_seconds=ttl_seconds,
            deadline_seconds=deadline_seconds,
            max_restarts=max_restarts,
            queue=queue,
            request_id=request_id,
        )
        return read_run(self._call(self._stub.CreateRun, request, timeout))

    def probe(
        self,
        run: str,
        model: str,
        data: Sequence[str] = (),
        *,
        seed: int = 0,
        paper: bool = False,
        gpus_per_node: int = 0,
        launcher: str = "",
        ttl_seconds: int = 0,
        deadline_seconds: int = 0,
        queue: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> Run:
        """Creates a run that measures `model`: `runs/NAME`, a model of timm, or `pixels`."""
        request = create_request(
            run,
            probe=probe_message(model, data, seed=seed, paper=paper),
            gpus_per_node=gpus_per_node,
            launcher=launcher,
            ttl_seconds=ttl_seconds,
            deadline_seconds=deadline_seconds,
            queue=queue,
            request_id=request_id,
        )
        return read_run(self._call(self._stub.CreateRun, request, timeout))

    def get(self, name: str, *, timeout: float | None = None) -> Run:
        """The run `runs/NAME`; its bare name will do, here and below."""
        return read_run(self._call(self._stub.GetRun, pb.GetRunRequest(name=run_name(name)), timeout))

    def list(self, *, page_size: int = 0, timeout: float | None = None) -> Iterator[Run]:
        """Every run by name, asked for page by page; `timeout` is that of a page."""
        token = ""
        while True:
            page = self._page(page_size, token, timeout)
            for message in page.runs:
                yield read_run(message)
            token = page.next_page_token
            if not token:
                return

    def list_page(
        self, *, page_size: int = 0, page_token: str = "", timeout: float | None = None
    ) -> tuple[Sequence[Run], str]:
        """One page of `list`, 100 runs by default, and the token of the next; empty: there is none."""
        page = self._page(page_size, page_token, timeout)
        return [read_run(message) for message in page.runs], page.next_page_token

    def _page(self, page_size: int, page_token: str, timeout: float | None) -> pb.ListRunsResponse:
        request = pb.ListRunsRequest(page_size=page_size, page_token=page_token)
        return self._call(self._stub.ListRuns, request, timeout)

    def watch(
        self, name: str, *, after_step: int = 0, timeout: float | None = None
    ) -> Iterator[tuple[Run, tuple[RunMetrics, ...]]]:
        """The run and the metrics that are new, now and at every change, until its state is final.

        Outlives a restart of the gateway. Raises `DeadlineExceeded` when it is not final after `timeout`
        seconds; None: no limit.
        """
        request = pb.WatchRunRequest(name=run_name(name), after_step=after_step)
        left = time_left(timeout)
        attempt = 0
        while True:
            call = self._stub.WatchRun(request, timeout=left(), metadata=self._metadata)
            try:
                with our_errors():
                    for message in call:
                        attempt = 0
                        metrics = tuple(map(read_metrics, message.metrics))
                        if metrics:
                            request.after_step = metrics[-1].step
                        yield read_run(message.run), metrics
                return
            except DeadlineExceeded:
                raise
            except Unavailable:
                attempt += 1
                if attempt > RECONNECTS:
                    raise
                sleep(pause(attempt))
            finally:
                call.cancel()

    def cancel(self, name: str, *, timeout: float | None = None) -> Run:
        """Stops the run; checkpoints and metrics stay. In a final state nothing changes."""
        request = pb.CancelRunRequest(name=run_name(name))
        return read_run(self._call(self._stub.CancelRun, request, timeout))

    def resume(self, name: str, *, timeout: float | None = None) -> Run:
        """Runs a cancelled or failed run again, from its last checkpoint."""
        request = pb.ResumeRunRequest(name=run_name(name))
        return read_run(self._call(self._stub.ResumeRun, request, timeout))

    def delete(self, name: str, *, force: bool = False, timeout: float = DELETE_SECONDS) -> int:
        """Removes a run that is over, with all that it has learnt; returns how many objects went.

        With `force` a run that is not over is cancelled first; without, `WrongState` is raised.
        """
        request = pb.DeleteRunRequest(name=run_name(name), force=force)
        return int((self._call(self._stub.DeleteRun, request, timeout)).objects_deleted)

    def logs(self, name: str, *, node: int = 0, lines: int = 0, follow: bool = False) -> Iterator[str]:
        """What one machine of the run printed, in whole lines: the last (0: 1,000), then what comes."""
        request = pb.GetRunLogsRequest(name=run_name(name), node=node, tail_lines=lines, follow=follow)
        call = self._stub.GetRunLogs(request, metadata=self._metadata)
        try:
            with our_errors():
                for message in call:
                    yield message.text
        finally:
            call.cancel()

    def _call(self, method: Any, request: Any, timeout: float | None = None) -> Any:
        with our_errors():
            return method(
                request, timeout=self._timeout if timeout is None else timeout, metadata=self._metadata
            )
