"""Pages of a job's shards: what ListShards asks for, checked, and the messages it answers with."""

import base64
import binascii

from services.gateway.paging import page_size_of
from services.gateway.requests import dataset_of
from stablerep.errors import InvalidInput
from stablerep.queue.client import Queue
from stablerep.queue.leases import ShardState, ShardStatus
from stablerep.shards.layout import MAX_SHARDS
from stablerep.v1 import generation_pb2 as pb


def list_shards(queue: Queue, request: pb.ListShardsRequest) -> pb.ListShardsResponse:
    """One page, by number. Raises `InvalidInput` naming the field, `NotFound` for an unknown job."""
    dataset = dataset_of(request.parent, field="parent")
    state = _state(request.state)
    start = _read_token(request.page_token, state)
    size = page_size_of(request.page_size)
    found = queue.shards(dataset, start, size + 1, state)
    page = found[:size]
    token = _token(page[-1].number + 1, state) if len(found) > size else ""
    return pb.ListShardsResponse(
        shards=[shard_message(dataset, shard) for shard in page], next_page_token=token
    )


def shard_message(dataset: str, shard: ShardStatus) -> pb.Shard:
    return pb.Shard(
        name=f"jobs/{dataset}/shards/{shard.number}",
        number=shard.number,
        state=shard.state.value,
        worker=shard.worker,
        errors=shard.errors,
        lost_leases=shard.lost_leases,
        error=shard.error,
    )


def _state(number: int) -> ShardState | None:
    if not number:
        return None
    try:
        return ShardState(pb.Shard.State.Name(pb.Shard.State.ValueType(number)))
    except ValueError:
        raise InvalidInput(f"{number} is no state of a shard", field="state") from None


def _token(number: int, state: ShardState | None) -> str:
    return base64.urlsafe_b64encode(f"{state or ''}/{number}".encode()).decode()


def _read_token(token: str, state: ShardState | None) -> int:
    """The number with which a page begins; a token goes with the state it was given for."""
    if not token:
        return 0
    try:
        listed, _, number = base64.b64decode(token.encode(), b"-_", validate=True).decode().partition("/")
    except (binascii.Error, UnicodeError):
        listed, number = "?", ""
    if listed != (state or "") or not number.isdecimal() or len(number) > 9 or int(number) > MAX_SHARDS:
        raise InvalidInput(
            "is none that ListShards returned for this state; leave it out for the first page",
            field="page_token",
        )
    return int(number)
