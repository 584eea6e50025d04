"""The client of the gateway: `AsyncClient` in aio.py, and `Client` in sync.py, which is made from it."""
# Made from aio.py by scripts/make_sync_client.py: change that and run it again.

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from stablerep.client.hops.sync import close_channel, in_thread, read_in_thread, sleep
from stablerep.client.job import Job, Shard, job_name, read_job, read_shard
from stablerep.client.reconciled import ReconcileResult, read_reconciled
from stablerep.client.requests import (
    create_job_request,
    jobs_filter,
    list_shards_request,
    place_captions,
)
from stablerep.client.runs_sync import Runs
from stablerep.client.upload import Progress, may_resume, upload_id, upload_messages
from stablerep.client.worker import WorkerInfo, read_description, read_worker
from stablerep.errors import DeadlineExceeded, InvalidInput, NotFound, Unavailable
from stablerep.queue.leases import ShardState
from stablerep.v1 import generation_pb2 as pb
from stablerep.v1 import generation_pb2_grpc as rpc


class Client:
    """Jobs of one gateway, and its `runs`; `close` it, or use it in a `with` block (`async with`).

    A `Client` may be used from several threads, an `AsyncClient` on the event loop that it was made on.
    Calls are tried again while the gateway is unavailable. All methods raise errors of `stablerep.errors`:
    InvalidInput with the field (WrongState where the job's state does not allow it), NotFound, AlreadyExists
    with what differs, Unauthenticated, PermissionDenied, Unavailable (DeadlineExceeded after `timeout`).

    Args:
        address: host:port.
        token: sent as a bearer token; in clear text to this machine only.
        ca_file: certificates of the authority that the server's must be of; None: those gRPC comes with.
        cert_file: the client's own certificate, where the server asks for one; key_file: its key.
        tls: None: TLS if any of these files is given.
        allow_clear_text: sends the token without TLS to another machine all the same.
        timeout: seconds that a call may take, retries included, unless it is given its own `timeout`; then
            `DeadlineExceeded` is raised. Uploads have no limit, watches none unless they are given one.
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
        self._timeout = timeout
        self.runs = Runs(self._channel, self._metadata, timeout)

    def close(self) -> None:
        close_channel(self._channel)

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
        header: bool | None = None,
        limit: int = 0,
        upload: bool = False,
        request_id: str = "",
        progress: Progress | None = None,
        on_captions: Callable[[Description], None] | None = None,
        timeout: float | None = None,
    ) -> Job:
        """Creates the job that makes `dataset`; the same call again gives the same job.

        Args:
            captions: a local file, which is uploaded; many of them (`dir/{00000..00099}.tar`, `dir/*.csv`),
                whose captions are uploaded; `-`, standard input; `upload:ID` for one that `upload_captions`
                returned, `store:KEY` or a URL for the gateway.
            preset: where unset fields of the recipe come from; empty: the gateway's default.
            recipe: overrides by field name, e.g. `{"guidance_scale": 8}`.
            captions_per_shard: 0 takes the preset's.
            format: text, csv, tsv, jsonl, redcaps, parquet or webdataset; empty: inferred from the file name.
            column: name or number of the captions' column; empty: found by the usual names.
            header: whether the first row of csv or tsv is a header; None: inferred from its cells.
            limit: maximum number of captions; 0: all.
            upload: reads a URL here, by fsspec, and uploads it; the gateway need not reach it.
            progress: called with the bytes sent and the total during an upload.
            on_captions: called before the upload with what is understood of captions read on this machine.
            timeout: of the call that creates the job, in seconds; an upload before it has no limit.
        """
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
            chosen = in_thread(stack.enter_context, choosing)
            if on_captions is not None and chosen.description is not None:
                on_captions(chosen.description)
            path = chosen.path
            uploaded = "" if path is None else self.upload_captions(path, progress=progress)
        chosen.put_into(request.source, uploaded)
        return read_job(self._call(self._stub.CreateJob, request, timeout))

    def upload_captions(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> str:
        """Sends a file and returns its upload id; what the gateway has of it already is not sent again."""
        path = Path(path)
        identifier = in_thread(upload_id, path)
        attempt = 0
        while True:
            try:
                stored = self._stored(identifier)
                if not stored.complete:
                    messages = read_in_thread(upload_messages(path, identifier, stored.size, progress))
                    with our_errors():
                        self._stub.UploadCaptions(messages, metadata=self._metadata)
                return identifier
            except (Unavailable, InvalidInput) as error:
                attempt += 1
                if attempt > RECONNECTS or not may_resume(error):
                    raise
                sleep(pause(attempt))

    def _stored(self, identifier: str) -> pb.Upload:
        request = pb.GetUploadRequest(upload_id=identifier)
        try:
            return cast(pb.Upload, self._call(self._stub.GetUpload, request))
        except NotFound:
            return pb.Upload(upload_id=identifier)

    def describe_captions(
        self,
        captions: str,
        *,
        format: str = "",
        column: str = "",
        header: bool | None = None,
        timeout: float | None = None,
    ) -> Description:
        """What the gateway understands of an upload (`upload:ID`), `store:KEY` or URL; nothing is started."""
        source = pb.CaptionSource()
        place_captions(source, captions, format=format, column=column, header=header)
        request = pb.DescribeCaptionsRequest(source=source)
        return read_description(self._call(self._stub.DescribeCaptions, request, timeout))

    def list_workers(self, *, timeout: float | None = None) -> list[WorkerInfo]:
        """The workers that reported within the last two minutes, by name."""
        found = self._call(self._stub.ListWorkers, pb.ListWorkersRequest(), timeout)
        return [read_worker(message) for message in found.workers]

    def get_job(self, name: str, *, timeout: float | None = None) -> Job:
        """The job `jobs/NAME`; the bare name of the dataset will do, here and below."""
        request = pb.GetJobRequest(name=job_name(name))
        return read_job(self._call(self._stub.GetJob, request, timeout))

    def list_jobs(
        self,
        *,
        live: bool | None = None,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> Iterator[Job]:
        """Every job by name, asked for page by page; `timeout` is that of a page.

        `live`: only those that are not over, or, if False, only those that are.
        """
        token = ""
        while True:
            jobs, token = self.list_jobs_page(
                live=live, page_size=page_size, page_token=token, timeout=timeout
            )
            while jobs:
                yield jobs.pop(0)
            if not token:
                return

    def list_jobs_page(
        self,
        *,
        live: bool | None = None,
        page_size: int = 0,
        page_token: str = "",
        timeout: float | None = None,
    ) -> tuple[list[Job], str]:
        """One page of `list_jobs`, 100 jobs by default, and the token of the next; empty: there is none."""
        request = pb.ListJobsRequest(page_size=page_size, page_token=page_token, filter=jobs_filter(live))
        page = self._call(self._stub.ListJobs, request, timeout)
        return [read_job(message) for message in page.jobs], page.next_page_token

    def watch_job(self, name: str, *, timeout: float | None = None) -> Iterator[Job]:
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
                    for message in call:
                        attempt = 0
                        yield read_job(message)
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

    def cancel_job(self, name: str, *, timeout: float | None = None) -> Job:
        """Cancels the job; shards already written stay. In a final state nothing changes."""
        request = pb.CancelJobRequest(name=job_name(name))
        return read_job(self._call(self._stub.CancelJob, request, timeout))

    def pause_job(self, name: str, *, timeout: float | None = None) -> Job:
        """Pauses the job: no more shards are leased until it is resumed; leased ones are finished."""
        request = pb.PauseJobRequest(name=job_name(name))
        return read_job(self._call(self._stub.PauseJob, request, timeout))

    def resume_job(self, name: str, *, timeout: float | None = None) -> Job:
        """Resumes a paused job; one that is not paused stays as it is."""
        request = pb.ResumeJobRequest(name=job_name(name))
        return read_job(self._call(self._stub.ResumeJob, request, timeout))

    def retry_job(self, name: str, shards: Iterable[int] = (), *, timeout: float | None = None) -> Job:
        """Tries dead shards again, those named or all; a job that FAILED by them is RUNNING again."""
        request = pb.RetryJobRequest(name=job_name(name), shards=shards)
        return read_job(self._call(self._stub.RetryJob, request, timeout))

    def delete_job(
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
        return int((self._call(self._stub.DeleteJob, request, timeout)).objects_deleted)

    def list_shards(
        self,
        name: str,
        state: ShardState | str | None = None,
        *,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> Iterator[Shard]:
        """The shards of a job by number, those of one state or all; `timeout` is that of a page."""
        request = list_shards_request(name, state, page_size)
        while True:
            page = self._call(self._stub.ListShards, request, timeout)
            for message in page.shards:
                yield read_shard(message)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def reconcile(self, name: str = "", *, verify: bool = False) -> Iterator[ReconcileResult]:
        """Compares one job, or all, with the store and repairs the differences; `verify` reads every tar."""
        request = pb.ReconcileJobsRequest(name=job_name(name) if name else "", verify=verify)
        with our_errors():
            for message in self._stub.ReconcileJobs(request, metadata=self._metadata):
                yield read_reconciled(message)

    def _call(self, method: Any, request: Any, timeout: float | None = None) -> Any:
        with our_errors():
            return method(
                request, timeout=self._timeout if timeout is None else timeout, metadata=self._metadata
            )
