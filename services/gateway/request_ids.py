"""Request ids: one object for each creation that carries one, so that a retry never creates twice (AIP-155).

The claim is written before the job or run and never taken back: an id stays with the first valid request that
carried it, even where that one was refused because the dataset's name was taken.
"""

import hashlib
import json

from google.protobuf.json_format import MessageToDict

from stablerep.errors import AlreadyExists, NotFound
from stablerep.jobs.records import CreateRecord, read_create
from stablerep.shards.layout import request_key
from stablerep.storage.interface import Store
from stablerep.v1 import generation_pb2 as pb
from stablerep.v1 import training_pb2

Request = pb.CreateJobRequest | training_pb2.CreateRunRequest


def claim_request(store: Store, request: Request) -> None:
    """Makes the id this request's own; without an id nothing is stored.

    Raises:
        AlreadyExists: the id is another request's.
    """
    if not request.request_id:
        return
    claim = {**_subject(request), "digest": _digest(request)}
    data = json.dumps(claim, sort_keys=True).encode()
    if not store.put(request_key(request.request_id), data, if_absent=True):
        is_claimed(store, request)


def created_before(store: Store, request: pb.CreateJobRequest) -> CreateRecord | None:
    """The job that this very request has created; looked for before its source, which may be gone by now.

    Raises:
        InvalidInput: the id cannot be one.
        AlreadyExists: the id is another request's.
    """
    if not request.request_id or not is_claimed(store, request):
        return None
    try:
        record = read_create(store, request.dataset)
    except NotFound:  # claimed, then the gateway died
        return None
    return record if record.spec.request_id == request.request_id else None


def is_claimed(store: Store, request: Request) -> bool:
    """Whether the id is this request's; False while it is nobody's.

    Raises:
        AlreadyExists: it is another request's.
    """
    if not request.request_id:
        return False
    try:
        claim = json.loads(store.get(request_key(request.request_id)))
    except NotFound:
        return False
    if claim["digest"] != _digest(request):
        what = f"the dataset {claim['dataset']}" if "dataset" in claim else f"the run {claim['run']}"
        raise AlreadyExists(
            f"request_id {request.request_id} came with another request before, for {what}; "
            "give a request of its own another id, or none",
            field="request_id",
        )
    return True


def _subject(request: Request) -> dict[str, str]:
    if isinstance(request, pb.CreateJobRequest):
        return {"dataset": request.dataset}
    return {"run": request.run}


def _digest(request: Request) -> str:
    """SHA-256 of the request as canonical JSON: protobuf promises no such thing of its own bytes."""
    text = json.dumps(MessageToDict(request), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
