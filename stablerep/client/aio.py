"""The asyncio client of the gateway: the same names as `Client`, to be awaited."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from stablerep.captions import Description
from stablerep.client.captions import choose_captions
from stablerep.client.channel import (
    DELETE_SECONDS,
    RECONNECTS,
    UNARY_SECONDS,
    gateway_options,
    our_errors,
    pause,
    time_left,
)
from stablerep.client.credentials import Credentials, File
from stablerep.client.job import Job, Shard, job_name, read_job, read_shard
from stablerep.client.reconciled import ReconcileResult, read_reconciled
from stablerep.client.requests import create_job_request, list_shards_request
from stablerep.client.upload import Progress, may_resume, upload_id, upload_messages
from stablerep.errors import DeadlineExceeded, InvalidInput, NotFound, Unavailable
from stablerep.queue.leases import ShardState
from stablerep.v1 import generation_pb2 as pb
from stablerep.v1 import generation_pb2_grpc as rpc


class AsyncClient:
    """Jobs of one gateway, on the running event loop; what `Client` says of retries and errors holds here."""

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        ca_file: File | None = None,
        cert_file: File | None = None,
        key_file: File | None = None,
        tls: bool | None = None,
        allow_clear_text: bool = False,
        timeout: float = UNARY_SECONDS,
    ) -> None:
        credentials = Credentials(token, ca_file, cert_file, key_file, tls, allow_clear_text)
        self._channel = credentials.aio_channel(address, gateway_options())
        self._stub = rpc.GenerationServiceStub(self._channel)
        self._metadata = credentials.metadata()
        self._timeout = timeout

    async def close(self) -> None:
        await self._channel.close(None)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def create_job(
        self,
        dataset: str,
        captions: str | os.PathLike[str],
        *,
        preset: str = "",
        recipe: Mapping[str, Any] | None = None,
        seed: int = 0,
        captions_per_shard: int = 0,
        priority: int = 0,
        format: str = "",
        column: str = "",
        header: bool | None = None,
        limit: int = 0,
        upload: bool = False,
        request_id: str = "",
        progress: Progress | None = None,
        on_captions: Callable[[Description], None] | None = None,
        timeout: float | None = None,
    ) -> Job:
        """Creates the job that makes `dataset`; arguments as in `Client.create_job`."""
        request = create_job_request(
            dataset,
            limit=limit,
            preset=preset,
            recipe=recipe,
            seed=seed,
            captions_per_shard=captions_per_shard,
            priority=priority,
            request_id=request_id,
        )
        choosing = choose_captions(
            captions, format=format, column=column, header=header, limit=limit, upload=upload
        )
        with ExitStack() as stack:
            chosen = await asyncio.to_thread(stack.enter_context, choosing)
            if on_captions is not None and chosen.description is not None:
                on_captions(chosen.description)
            path = chosen.path
            uploaded = "" if path is None else await self.upload_captions(path, progress=progress)
        chosen.put_into(request.source, uploaded)
        return read_job(await self._call(self._stub.CreateJob, request, timeout))

    async def upload_captions(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> str:
        """Sends a file and returns its upload id; what the gateway has of it already is not sent again."""
        path = Path(path)
        identifier = await asyncio.to_thread(upload_id, path)
        attempt = 0
        while True:
            try:
                stored = await self._stored(identifier)
                if not stored.complete:
                    messages = _in_thread(upload_messages(path, identifier, stored.size, progress))
                    with our_errors():
                        await self._stub.UploadCaptions(messages, metadata=self._metadata)
                return identifier
            except (Unavailable, InvalidInput) as error:
                attempt += 1
                if attempt > RECONNECTS or not may_resume(error):
                    raise
                await asyncio.sleep(pause(attempt))

    async def _stored(self, identifier: str) -> pb.Upload:
        request = pb.GetUploadRequest(upload_id=identifier)
        try:
            return cast(pb.Upload, await self._call(self._stub.GetUpload, request))
        except NotFound:
            return pb.Upload(upload_id=identifier)

    async def get_job(self, name: str, *, timeout: float | None = None) -> Job:
        """The job `jobs/NAME`; the bare name of the dataset will do, here and below."""
        request = pb.GetJobRequest(name=job_name(name))
        return read_job(await self._call(self._stub.GetJob, request, timeout))

    async def list_jobs(self, *, page_size: int = 0, timeout: float | None = None) -> AsyncIterator[Job]:
        """Every job by name, asked for page by page; `timeout` is that of a page."""
        token = ""
        while True:
            request = pb.ListJobsRequest(page_size=page_size, page_token=token)
            page = await self._call(self._stub.ListJobs, request, timeout)
            for message in page.jobs:
                yield read_job(message)
            token = page.next_page_token
            if not token:
                return

    async def watch_job(self, name: str, *, timeout: float | None = None) -> AsyncIterator[Job]:
        """The job now and at every change, until its state is final; outlives a restart of the gateway.

        Raises `DeadlineExceeded` when it is not final after `timeout` seconds; None: no limit.
        """
        request = pb.WatchJobRequest(name=job_name(name))
        left = time_left(timeout)
        attempt = 0
        while True:
            call = self._stub.WatchJob(request, timeout=left(), metadata=self._metadata)
            try:
                with our_errors():
                    async for message in call:
                        attempt = 0
                        yield read_job(message)
                return
            except DeadlineExceeded:
                raise
            except Unavailable:
                attempt += 1
                if attempt > RECONNECTS:
                    raise
                await asyncio.sleep(pause(attempt))
            finally:
                call.cancel()

    async def cancel_job(self, name: str, *, timeout: float | None = None) -> Job:
        """Cancels the job; shards already written stay. In a final state nothing changes."""
        request = pb.CancelJobRequest(name=job_name(name))
        return read_job(await self._call(self._stub.CancelJob, request, timeout))

    async def pause_job(self, name: str, *, timeout: float | None = None) -> Job:
        """Hands out no more shards of the job until it is resumed; those in work are finished."""
        request = pb.PauseJobRequest(name=job_name(name))
        return read_job(await self._call(self._stub.PauseJob, request, timeout))

    async def resume_job(self, name: str, *, timeout: float | None = None) -> Job:
        """Goes on with a paused job; one that is not paused stays as it is."""
        request = pb.ResumeJobRequest(name=job_name(name))
        return read_job(await self._call(self._stub.ResumeJob, request, timeout))

    async def retry_job(self, name: str, shards: Iterable[int] = (), *, timeout: float | None = None) -> Job:
        """Tries dead shards again, those named or all; a job that FAILED by them is RUNNING again."""
        request = pb.RetryJobRequest(name=job_name(name), shards=shards)
        return read_job(await self._call(self._stub.RetryJob, request, timeout))

    async def delete_job(
        self,
        name: str,
        *,
        delete_data: bool = False,
        force: bool = False,
        timeout: float = DELETE_SECONDS,
    ) -> int:
        """Removes a job that is over, and with `delete_data` its dataset; returns how many objects went.

        With `force` a job that is not over is cancelled first; without, `WrongState` is raised.
        """
        request = pb.DeleteJobRequest(name=job_name(name), delete_data=delete_data, force=force)
        return int((await self._call(self._stub.DeleteJob, request, timeout)).objects_deleted)

    async def list_shards(
        self,
        name: str,
        state: ShardState | str | None = None,
        *,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[Shard]:
        """The shards of a job by number, those of one state or all; `timeout` is that of a page."""
        request = list_shards_request(name, state, page_size)
        while True:
            page = await self._call(self._stub.ListShards, request, timeout)
            for message in page.shards:
                yield read_shard(message)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def reconcile(self, name: str = "", *, verify: bool = False) -> AsyncIterator[ReconcileResult]:
        """Compares one job, or all, with the store and mends what can be; `verify` reads every tar."""
        request = pb.ReconcileJobsRequest(name=job_name(name) if name else "", verify=verify)
        with our_errors():
            async for message in self._stub.ReconcileJobs(request, metadata=self._metadata):
                yield read_reconciled(message)

    async def _call(self, method: Any, request: Any, timeout: float | None = None) -> Any:
        with our_errors():
            return await method(
                request, timeout=self._timeout if timeout is None else timeout, metadata=self._metadata
            )


async def _in_thread(messages: Any) -> AsyncIterator[pb.UploadCaptionsRequest]:
    """Reads the file in a thread, so that a slow disk does not hold up the loop."""
    while (message := await asyncio.to_thread(next, messages, None)) is not None:
        yield message
