"""The asyncio client of the gateway: the same names as `Client`, to be awaited."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from stablerep.client.channel import RECONNECTS, UNARY_SECONDS, gateway_options, our_errors, pause
from stablerep.client.credentials import Credentials, File
from stablerep.client.job import Job, job_name, read_job
from stablerep.client.requests import caption_source, create_job_request
from stablerep.client.upload import Progress, may_resume, upload_id, upload_messages
from stablerep.errors import InvalidInput, NotFound, Unavailable
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
        self._unary: dict[str, Any] = {"timeout": timeout, "metadata": self._metadata}

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
        limit: int = 0,
        request_id: str = "",
        progress: Progress | None = None,
    ) -> Job:
        """Creates the job that makes `dataset`; arguments as in `Client.create_job`."""
        source = caption_source(captions)
        uploaded = await self.upload_captions(source, progress=progress) if isinstance(source, Path) else ""
        request = create_job_request(
            dataset,
            uri=str(source),
            upload_id=uploaded,
            format=format,
            column=column,
            limit=limit,
            preset=preset,
            recipe=recipe,
            seed=seed,
            captions_per_shard=captions_per_shard,
            priority=priority,
            request_id=request_id,
        )
        with our_errors():
            return read_job(await self._stub.CreateJob(request, **self._unary))

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
        try:
            with our_errors():
                return await self._stub.GetUpload(pb.GetUploadRequest(upload_id=identifier), **self._unary)
        except NotFound:
            return pb.Upload(upload_id=identifier)

    async def get_job(self, name: str) -> Job:
        """The job `jobs/NAME`; the bare name of the dataset will do."""
        with our_errors():
            return read_job(await self._stub.GetJob(pb.GetJobRequest(name=job_name(name)), **self._unary))

    async def list_jobs(self, *, page_size: int = 0) -> AsyncIterator[Job]:
        """Every job by name, asked for page by page."""
        token = ""
        while True:
            request = pb.ListJobsRequest(page_size=page_size, page_token=token)
            with our_errors():
                page = await self._stub.ListJobs(request, **self._unary)
            for message in page.jobs:
                yield read_job(message)
            token = page.next_page_token
            if not token:
                return

    async def watch_job(self, name: str) -> AsyncIterator[Job]:
        """The job now and at every change, until its state is final; outlives a restart of the gateway."""
        request = pb.WatchJobRequest(name=job_name(name))
        attempt = 0
        while True:
            call = self._stub.WatchJob(request, metadata=self._metadata)
            try:
                with our_errors():
                    async for message in call:
                        attempt = 0
                        yield read_job(message)
                return
            except Unavailable:
                attempt += 1
                if attempt > RECONNECTS:
                    raise
                await asyncio.sleep(pause(attempt))
            finally:
                call.cancel()

    async def cancel_job(self, name: str) -> Job:
        """Cancels the job; shards already written stay. In a final state nothing changes."""
        with our_errors():
            request = pb.CancelJobRequest(name=job_name(name))
            return read_job(await self._stub.CancelJob(request, **self._unary))


async def _in_thread(messages: Any) -> AsyncIterator[pb.UploadCaptionsRequest]:
    """Reads the file in a thread, so that a slow disk does not hold up the loop."""
    while (message := await asyncio.to_thread(next, messages, None)) is not None:
        yield message
