"""The blocking client of the gateway."""

import os
import time
from collections.abc import Iterator, Mapping
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


class Client:
    """Jobs of one gateway. Safe to use from several threads; `close` it or use it in a `with` block.

    Calls are tried again while the gateway is unavailable. All methods raise errors of `stablerep.errors`:
    InvalidInput with the field, NotFound, AlreadyExists with what differs, Unavailable.

    Args:
        address: host:port.
        token: sent as a bearer token; in clear text to this machine only.
        ca_file: certificates of the authority that the server's must be of; None: those gRPC comes with.
        cert_file: the client's own certificate, where the server asks for one; key_file: its key.
        tls: None: TLS if any of these files is given.
        allow_clear_text: sends the token without TLS to another machine all the same.
        timeout: seconds that a call may take, retries included; uploads and watches have no limit.
    """

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
        self._channel = credentials.channel(address, gateway_options())
        self._stub = rpc.GenerationServiceStub(self._channel)
        self._metadata = credentials.metadata()
        self._unary: dict[str, Any] = {"timeout": timeout, "metadata": self._metadata}

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def create_job(
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
        """Creates the job that makes `dataset`; the same call again gives the same job.

        Args:
            captions: a local file, which is uploaded; or `store:KEY` or a URL for one in the gateway's store.
            preset: where unset fields of the recipe come from; empty: the gateway's default.
            recipe: overrides by field name, e.g. `{"guidance_scale": 8}`.
            captions_per_shard: 0 takes the preset's.
            format: text, csv, tsv, jsonl, redcaps or parquet; empty: told from the file name.
            column: where the caption stands; empty: found by the usual names.
            limit: at most so many captions; 0 takes all.
            progress: called with bytes sent and bytes in all during an upload.
        """
        source = caption_source(captions)
        uploaded = self.upload_captions(source, progress=progress) if isinstance(source, Path) else ""
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
            return read_job(self._stub.CreateJob(request, **self._unary))

    def upload_captions(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> str:
        """Sends a file and returns its upload id; what the gateway has of it already is not sent again."""
        path = Path(path)
        identifier = upload_id(path)
        attempt = 0
        while True:
            try:
                stored = self._stored(identifier)
                if not stored.complete:
                    messages = upload_messages(path, identifier, stored.size, progress)
                    with our_errors():
                        self._stub.UploadCaptions(messages, metadata=self._metadata)
                return identifier
            except (Unavailable, InvalidInput) as error:
                attempt += 1
                if attempt > RECONNECTS or not may_resume(error):
                    raise
                time.sleep(pause(attempt))

    def _stored(self, identifier: str) -> pb.Upload:
        try:
            with our_errors():
                return self._stub.GetUpload(pb.GetUploadRequest(upload_id=identifier), **self._unary)
        except NotFound:
            return pb.Upload(upload_id=identifier)

    def get_job(self, name: str) -> Job:
        """The job `jobs/NAME`; the bare name of the dataset will do."""
        with our_errors():
            return read_job(self._stub.GetJob(pb.GetJobRequest(name=job_name(name)), **self._unary))

    def list_jobs(self, *, page_size: int = 0) -> Iterator[Job]:
        """Every job by name, asked for page by page."""
        token = ""
        while True:
            request = pb.ListJobsRequest(page_size=page_size, page_token=token)
            with our_errors():
                page = self._stub.ListJobs(request, **self._unary)
            yield from map(read_job, page.jobs)
            token = page.next_page_token
            if not token:
                return

    def watch_job(self, name: str) -> Iterator[Job]:
        """The job now and at every change, until its state is final; outlives a restart of the gateway."""
        request = pb.WatchJobRequest(name=job_name(name))
        attempt = 0
        while True:
            call = self._stub.WatchJob(request, metadata=self._metadata)
            try:
                with our_errors():
                    for message in call:
                        attempt = 0
                        yield read_job(message)
                return
            except Unavailable:
                attempt += 1
                if attempt > RECONNECTS:
                    raise
                time.sleep(pause(attempt))
            finally:
                call.cancel()

    def cancel_job(self, name: str) -> Job:
        """Cancels the job; shards already written stay. In a final state nothing changes."""
        with our_errors():
            return read_job(self._stub.CancelJob(pb.CancelJobRequest(name=job_name(name)), **self._unary))
