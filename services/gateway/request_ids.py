"""Request ids: an object a CreateJob request that carries one, so that a retry never creates twice (AIP-155).

The claim is written before the job and never taken back: an id stays with the first valid request that
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


def claim_request(store: Store, request: pb.CreateJobRequest) -> None:
    """Makes the id this request's own; without an id nothing is stored.

    Raises:
        AlreadyExists: the id is another request's.
    """
    if not request.request_id:
        return
    claim = {"dataset": request.dataset, "digest": _digest(request)}
    data = json.dumps(claim, sort_keys=True).encode()
    if not store.put(request_key(request.request_id), data, if_absent=True):
        _claimed(store, request)


def created_before(store: Store, request: pb.CreateJobRequest) -> CreateRecord | None:
    """The job that this very request has created; looked for before its source, which may be gone by now.

    Raises:
        InvalidInput: the id cannot be one.
        AlreadyExists: the id is another request's.
    """
    if not request.request_id or not _claimed(store, request):
        return None
    try:
        record = read_create(store, request.dataset)
    except NotFound:  # claimed, then the gateway died
        return None
    return record if record.spec.request_id == request.request_id else None


def _claimed(store: Store, request: pb.CreateJobRequest) -> bool:
    """Whether the id is this request's; False while it is nobody's."""
    try:
        claim = json.loads(store.get(request_key(request.request_id)))
    except NotFound:
        return False
    if claim["digest"] != _digest(request):
        raise AlreadyExists(
            f"request_id {request.request_id} came with another request before, for the dataset "
            f"{claim['dataset']}; give a request of its own another id, or none",
            field="request_id",
        )
    return True


def _digest(request: pb.CreateJobRequest) -> str:
    """SHA-256 of the request as canonical JSON: protobuf promises no such thing of its own bytes."""
    text = json.dumps(MessageToDict(request), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
