"""The runs API: checks each request, changes the store, and answers from it; launchers do the rest."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from services.gateway.paging import page_of, page_size_of, read_token
from services.gateway.request_ids import claim_request, is_claimed
from services.gateway.runs.messages import metrics_message, run_message
from services.gateway.runs.requests import run_of, run_spec
from stablerep.config.names import check_run
from stablerep.config.settings import GatewaySettings
from stablerep.errors import InvalidInput, NotFound, TornObject, Unavailable
from stablerep.runs import control
from stablerep.runs.launchers.interface import RunLauncher
from stablerep.runs.metrics import MetricsTail
from stablerep.runs.records import read_create, run_names
from stablerep.runs.view import RunView, run_view
from stablerep.storage.interface import Store
from stablerep.v1 import training_pb2 as pb
from stablerep.v1 import training_pb2_grpc as rpc
from stablerep.warn import warn_once

POLL_SECONDS = 1.0
DEFAULT_LINES = 1_000
MAX_LINES = 100_000
METRICS_A_MESSAGE = 500
LOGS_AT_ONCE = 64
"""Each follows a log in a thread of its own, apart from those of other calls."""


class RunsServicer(rpc.TrainingServiceServicer):
    """`stablerep.v1.TrainingService`. Errors of the library become statuses in the interceptor.

    Args:
        stopping: set when the process is about to end; watches end then, for their clients to reconnect.
    """

    def __init__(
        self, store: Store, launcher: RunLauncher, settings: GatewaySettings, stopping: asyncio.Event
    ) -> None:
        self._store, self._launcher, self._settings, self._stopping = store, launcher, settings, stopping
        self._logs = ThreadPoolExecutor(LOGS_AT_ONCE, thread_name_prefix="run-logs")

    async def CreateRun(self, request: pb.CreateRunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        await asyncio.to_thread(self._create, request)
        return await asyncio.to_thread(self._message, request.run)

    async def GetRun(self, request: pb.GetRunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        return await asyncio.to_thread(self._message, run_of(request.name))

    async def ListRuns(
        self, request: pb.ListRunsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListRunsResponse:
        after = read_token(request.page_token, check_run, "ListRuns")
        names = await asyncio.to_thread(run_names, self._store)
        page, token = page_of(names, page_size_of(request.page_size), after)
        found = await asyncio.gather(*(asyncio.to_thread(self._message_if_there, name) for name in page))
        return pb.ListRunsResponse(runs=[run for run in found if run is not None], next_page_token=token)

    async def WatchRun(
        self, request: pb.WatchRunRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchRunResponse]:
        run, sent = run_of(request.name), None
        tail = MetricsTail(self._store, run, request.after_step)
        while not self._stopping.is_set():
            view = await asyncio.to_thread(run_view, self._store, run)
            # After the view: a run that is over has logged all of them.
            metrics = await asyncio.to_thread(tail.new)
            if metrics or view != sent:
                for message in self._updates(view, metrics):
                    yield message
                sent = view
            if view.state.final:
                return
            await self._pause()
        raise Unavailable("the gateway is stopping; watch again")

    async def CancelRun(self, request: pb.CancelRunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        run = run_of(request.name)
        await asyncio.to_thread(control.cancel, self._store, run)
        return await asyncio.to_thread(self._message, run)

    async def ResumeRun(self, request: pb.ResumeRunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        run = run_of(request.name)
        await asyncio.to_thread(control.resume, self._store, run)
        return await asyncio.to_thread(self._message, run)

    async def DeleteRun(
        self, request: pb.DeleteRunRequest, context: grpc.aio.ServicerContext
    ) -> pb.DeleteRunResponse:
        run = run_of(request.name)
        count = await asyncio.to_thread(control.delete, self._store, run, force=request.force)
        return pb.DeleteRunResponse(objects_deleted=count)

    async def GetRunLogs(
        self, request: pb.GetRunLogsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GetRunLogsResponse]:
        run = run_of(request.name)
        if not 0 <= request.node < 1024:
            raise InvalidInput(f"{request.node} is not in 0..1023", field="node")
        lines = min(max(request.tail_lines, 0) or DEFAULT_LINES, MAX_LINES)
        texts = await asyncio.to_thread(self._log, run, request.node, lines, request.follow)
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            text = await loop.run_in_executor(self._logs, next, texts, None)
            if text is None:
                return
            for part in _parts(text):
                yield pb.GetRunLogsResponse(text=part)
        raise Unavailable("the gateway is stopping; ask again")

    def _create(self, request: pb.CreateRunRequest) -> None:
        check_run(request.run)
        if is_claimed(self._store, request) and read_create(self._store, request.run) is not None:
            return  # this very request, whose datasets may be gone by now
        spec = run_spec(self._store, request, self._settings.launcher)
        claim_request(self._store, request)
        control.create(self._store, spec)

    def _log(self, run: str, node: int, lines: int, follow: bool) -> Iterator[str]:
        view = run_view(self._store, run)
        if view.create is None:
            raise NotFound(f"run {run} was started without this service; its logs are where it was started")
        return self._launcher.logs(run, node, lines, follow=follow and not view.state.final)

    def _updates(self, view: RunView, metrics: list[dict[str, float]]) -> Iterator[pb.WatchRunResponse]:
        run = run_message(self._store.url, view)
        for start in range(0, max(1, len(metrics)), METRICS_A_MESSAGE):
            part = metrics[start : start + METRICS_A_MESSAGE]
            yield pb.WatchRunResponse(run=run, metrics=map(metrics_message, part))

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._stopping.wait()
        except TimeoutError:
            pass

    def _message_if_there(self, run: str) -> pb.Run | None:
        """None for what is no run, one that is being deleted, and one whose records cannot be read."""
        try:
            return self._message(run)
        except (NotFound, InvalidInput):
            return None
        except TornObject as error:  # asking for this very run says so; the others are still to be listed
            warn_once("stablerep.gateway", f"run {run} is left out of the list: {error}")
            return None

    def _message(self, run: str) -> pb.Run:
        return run_message(self._store.url, run_view(self._store, run))


def _parts(text: str, size: int = 1 << 20) -> Iterator[str]:
    """A text in parts that fit into a message."""
    for start in range(0, len(text), size):
        yield text[start : start + size]
