"""The jobs API: checks each request, hands it to the library off the event loop, answers with messages."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TypeVar

import grpc

from services.gateway.background import Planners
from services.gateway.describing import describe_captions
from services.gateway.messages import job_message, worker_message
from services.gateway.paging import page_of, page_size_of, read_token
from services.gateway.reconcile_rpc import reconcile_jobs
from services.gateway.request_ids import claim_request, created_before
from services.gateway.requests import MAX_RETRIED, dataset_of, identity_of, job_spec
from services.gateway.shards import list_shards
from services.gateway.uploads import find_upload, receive_upload
from services.health.single_flight import SingleFlightCall
from stablerep.captions.remote.access import STORE_ONLY, Remote
from stablerep.config.names import check_dataset
from stablerep.config.settings import GatewaySettings
from stablerep.errors import InvalidInput, NotFound, Unavailable
from stablerep.jobs.control import (
    cancel_job,
    delete_job,
    finish_deletion,
    pause_job,
    resume_job,
    retry_job,
)
from stablerep.jobs.planning.create import create_job
from stablerep.jobs.recovery.repair import Depth, repair
from stablerep.jobs.view import JobViews, job_view
from stablerep.queue.client import Queue
from stablerep.queue.states import JobState
from stablerep.queue.stats import QueueStats
from stablerep.queue.workers import list_workers
from stablerep.storage.interface import Store
from stablerep.v1 import generation_pb2 as pb
from stablerep.v1 import generation_pb2_grpc as rpc

Result = TypeVar("Result")
POLL_SECONDS = 0.3
STATS_SECONDS = 2.0
"""Where jobs stand among each other may be this old: it takes a look at all of them."""
UPLOADS_AT_ONCE = 16
"""Each holds a part of 8 MiB in memory; others wait for their turn."""
LONG_CALLS_AT_ONCE = 16
"""Creations, which wait for hosts of captions, and deletions; apart, so that they keep no other waiting."""


class JobsServicer(rpc.GenerationServiceServicer):
    """`stablerep.v1.GenerationService`. Errors of the library become statuses in the interceptor.

    Args:
        stopping: set when the process is about to end; watches end then, for their clients to reconnect.
        remote: the URLs besides the store's that captions may be read from.
    """

    def __init__(
        self,
        store: Store,
        queue: Queue,
        planners: Planners,
        settings: GatewaySettings,
        stopping: asyncio.Event,
        remote: Remote = STORE_ONLY,
    ) -> None:
        self._store = store
        self._queue = queue
        self._planners = planners
        self._settings = settings
        self._remote = remote
        self._stopping = stopping
        self._uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)
        self._stats = SingleFlightCall("the queue server", queue.stats, keep_seconds=STATS_SECONDS)
        self._live = SingleFlightCall("the queue server", queue.stats, keep_seconds=0.0)
        self._views = JobViews(store, queue)
        self._long = ThreadPoolExecutor(LONG_CALLS_AT_ONCE, thread_name_prefix="long")

    async def UploadCaptions(
        self, requests: AsyncIterator[pb.UploadCaptionsRequest], context: grpc.aio.ServicerContext
    ) -> pb.Upload:
        async with self._uploads:
            limit = self._settings.upload_limit_bytes
            return (await receive_upload(self._store, requests, limit_bytes=limit)).message()

    async def GetUpload(self, request: pb.GetUploadRequest, context: grpc.aio.ServicerContext) -> pb.Upload:
        upload = await asyncio.to_thread(find_upload, self._store, request.upload_id)
        if not upload.parts:
            raise NotFound(f"there is no upload {request.upload_id}")
        return upload.message()

    async def CreateJob(self, request: pb.CreateJobRequest, context: grpc.aio.ServicerContext) -> pb.Job:
        await self._run_long(self._create, request)
        self._planners.submit(request.dataset)
        return await asyncio.to_thread(self._message, request.dataset)

    async def GetJob(self, request: pb.GetJobRequest, context: grpc.aio.ServicerContext) -> pb.Job:
        return await asyncio.to_thread(self._message, dataset_of(request.name))

    async def ListJobs(
        self, request: pb.ListJobsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListJobsResponse:
        after = read_token(request.page_token, check_dataset, "ListJobs")
        names = await asyncio.to_thread(self._names, request.filter)
        page, token = page_of(names, page_size_of(request.page_size), after)
        jobs = await asyncio.to_thread(self._messages, page)
        if request.filter == pb.ListJobsRequest.ENDED:  # not one that was created this very moment
            jobs = [job for job in jobs if JobState(pb.Job.State.Name(job.state)).final]
        return pb.ListJobsResponse(jobs=jobs, next_page_token=token)

    async def WatchJob(
        self, request: pb.WatchJobRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Job]:
        dataset = dataset_of(request.name)
        sent = None
        while not self._stopping.is_set():
            status = await asyncio.to_thread(self._queue.status, dataset)
            if status != sent:
                yield await asyncio.to_thread(self._message, dataset)
                sent = status
            if status.state.final:
                return
            await self._pause()
        raise Unavailable("the gateway is stopping; watch again")

    async def CancelJob(self, request: pb.CancelJobRequest, context: grpc.aio.ServicerContext) -> pb.Job:
        return await self._controlled(request.name, cancel_job)

    async def PauseJob(self, request: pb.PauseJobRequest, context: grpc.aio.ServicerContext) -> pb.Job:
        return await self._controlled(request.name, pause_job)

    async def ResumeJob(self, request: pb.ResumeJobRequest, context: grpc.aio.ServicerContext) -> pb.Job:
        return await self._controlled(request.name, resume_job)

    async def RetryJob(self, request: pb.RetryJobRequest, context: grpc.aio.ServicerContext) -> pb.Job:
        if len(request.shards) > MAX_RETRIED:
            raise InvalidInput(f"at most {MAX_RETRIED} in one request; none means all", field="shards")
        return await self._controlled(request.name, retry_job, list(request.shards))

    async def DeleteJob(
        self, request: pb.DeleteJobRequest, context: grpc.aio.ServicerContext
    ) -> pb.DeleteJobResponse:
        delete = partial(delete_job, delete_data=request.delete_data, force=request.force)
        dataset = dataset_of(request.name)
        return pb.DeleteJobResponse(
            objects_deleted=await self._run_long(delete, self._store, self._queue, dataset)
        )

    async def ListShards(
        self, request: pb.ListShardsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListShardsResponse:
        return await asyncio.to_thread(list_shards, self._queue, request)

    async def DescribeCaptions(
        self, request: pb.DescribeCaptionsRequest, context: grpc.aio.ServicerContext
    ) -> pb.DescribeCaptionsResponse:
        return await self._run_long(describe_captions, self._store, request.source, self._remote)

    async def ListWorkers(
        self, request: pb.ListWorkersRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListWorkersResponse:
        found = await asyncio.to_thread(list_workers, self._queue)
        return pb.ListWorkersResponse(workers=map(worker_message, found))

    async def ReconcileJobs(
        self, request: pb.ReconcileJobsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.ReconcileJobsResponse]:
        async for message in reconcile_jobs(self._store, self._queue, request, self._remote):
            yield message

    async def _controlled(self, name: str, step: Callable[..., object], *arguments: object) -> pb.Job:
        dataset = dataset_of(name)
        await asyncio.to_thread(step, self._store, self._queue, dataset, *arguments)
        return await asyncio.to_thread(self._message, dataset)

    async def _run_long(self, step: Callable[..., Result], *arguments: object) -> Result:
        call = partial(copy_context().run, step, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._long, call)

    def _create(self, request: pb.CreateJobRequest) -> None:
        finish_deletion(self._store, self._queue, check_dataset(request.dataset))
        record = created_before(self._store, request)
        if record is not None:
            # The gateway may have died before the queue knew of the job.
            repair(self._store, self._queue, Depth.RECORDS, record.spec.dataset)
            return
        spec = job_spec(self._store, request, self._remote, self._settings.models)
        identity = identity_of(self._store, spec.source, self._remote)
        claim_request(self._store, request)
        create_job(self._store, self._queue, spec, identity=identity)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._stopping.wait()
        except TimeoutError:
            pass

    def _names(self, filter: "pb.ListJobsRequest.Filter") -> list[str]:
        """The datasets of the jobs to list, in order."""
        if filter == pb.ListJobsRequest.FILTER_UNSPECIFIED:
            return self._queue.jobs()
        names = (
            self._queue.jobs()
        )  # before the look at which of them live: a new one is never taken for ended
        live = {job.dataset for job in self._live.get().jobs}
        return [name for name in names if (name in live) is (filter == pb.ListJobsRequest.LIVE)]

    def _messages(self, datasets: Sequence[str]) -> list[pb.Job]:
        views = self._views.views(datasets, self._stats_if_there())
        return [job_message(self._store.url, view) for view in views]

    def _message(self, dataset: str) -> pb.Job:
        view = job_view(self._store, self._queue, dataset, self._stats_if_there())
        return job_message(self._store.url, view)

    def _stats_if_there(self) -> QueueStats | None:
        try:
            return self._stats.get()
        except Unavailable:  # a job itself is worth an answer without its place among others
            return None
