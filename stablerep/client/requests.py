"""What both clients send: request messages built from plain arguments."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from stablerep.client.job import job_name
from stablerep.config.recipe import load_preset
from stablerep.errors import InvalidInput
from stablerep.jobs.job import DEFAULT_PRESET, CaptionSource, JobSpec
from stablerep.queue.leases import ShardState
from stablerep.v1 import generation_pb2 as pb

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_STORE_KEY = "store:"
_UPLOAD = "upload:"


def caption_source(captions: str | os.PathLike[str]) -> Path | str:
    """A local file as a Path; an object of the gateway's store (`store:KEY`) or a URL as its `uri`.

    Raises:
        InvalidInput: a local path without a file.
    """
    text = os.fspath(captions)
    if text.startswith(_STORE_KEY):
        return text.removeprefix(_STORE_KEY)
    if _URL.match(text):
        return text
    path = Path(text).expanduser()
    if not path.is_file():
        raise InvalidInput(
            f"no file {text}; give a file, store:KEY or a URL",
            field="captions",
        )
    return path


def is_there(captions: str) -> bool:
    """Whether the captions are in the gateway's hands already: an upload or an object of its store."""
    return captions.startswith((_STORE_KEY, _UPLOAD))


def place_captions(
    source: pb.CaptionSource, captions: str, *, format: str, column: str, header: bool | None
) -> None:
    """Names captions that the gateway has or reads by itself: `upload:ID`, `store:KEY` or a URL.

    Raises:
        InvalidInput: it is none of these.
    """
    source.format, source.column = format, column
    if header is not None:
        source.header = header
    if captions.startswith(_UPLOAD):
        source.upload_id = captions.removeprefix(_UPLOAD)
    elif captions.startswith(_STORE_KEY) or _URL.match(captions):
        source.uri = captions.removeprefix(_STORE_KEY)
    else:
        raise InvalidInput(f"{captions!r} is no upload:ID, store:KEY or URL", field="captions")


def jobs_filter(live: bool | None) -> "pb.ListJobsRequest.Filter":
    """Which jobs to list: those that are not over, those that are, or (None) all."""
    return {
        None: pb.ListJobsRequest.FILTER_UNSPECIFIED,
        True: pb.ListJobsRequest.LIVE,
        False: pb.ListJobsRequest.ENDED,
    }[live]


def create_job_request(
    dataset: str,
    *,
    limit: int = 0,
    preset: str = "",
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    captions_per_shard: int = 0,
    priority: int = 0,
    request_id: str = "",
) -> pb.CreateJobRequest:
    """The message, still without its captions, checked before any are uploaded.

    A request id is made where none is given, so that a retry never creates twice.

    Raises:
        InvalidInput: a name that a dataset cannot have, a preset or field of the recipe that does not exist,
            or a value outside its range.
    """
    request = pb.CreateJobRequest(
        dataset=dataset,
        preset=preset,
        recipe={key: str(value) for key, value in (recipe or {}).items()},
        request_id=request_id or uuid4().hex,
    )
    _set_number(request.source, "limit", limit)
    _set_number(request, "seed", seed)
    _set_number(request, "captions_per_shard", captions_per_shard)
    _set_number(request, "priority", priority)
    _check(request)
    return request


def _check(request: pb.CreateJobRequest) -> None:
    """Raises what the gateway would, with the same fields, for all but the captions."""
    name = request.preset or DEFAULT_PRESET
    captions_per_shard = request.captions_per_shard or load_preset(name).captions_per_shard
    try:
        recipe = load_preset(name, request.recipe).recipe
    except InvalidInput as error:
        text = str(error).removeprefix(f"{error.field}: ")
        raise InvalidInput(text, field=f"recipe.{error.field}") from error
    source = CaptionSource(uri="to be named", limit=request.source.limit)
    JobSpec(request.dataset, recipe, source, captions_per_shard, request.seed, request.priority)


def _set_number(message: pb.CreateJobRequest | pb.CaptionSource, field: str, value: int) -> None:
    try:
        setattr(message, field, value)
    except (TypeError, ValueError):
        raise InvalidInput(f"{value!r} is no whole number that fits", field=field) from None


def list_shards_request(name: str, state: ShardState | str | None, page_size: int) -> pb.ListShardsRequest:
    """The first page's request. Raises `InvalidInput` for a name or a state that is none."""
    try:
        wanted = None if state is None else ShardState(str(state).upper()).value
    except ValueError:
        raise InvalidInput(f"{state!r} is none of {', '.join(ShardState)}", field="state") from None
    return pb.ListShardsRequest(parent=job_name(name), state=wanted, page_size=page_size)
