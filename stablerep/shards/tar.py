"""Shard tars: groups as a deterministic WebDataset tar, and the index of one, with all its structure checked.

A sample is `<caption id>.00.jpg`, `<caption id>.01.jpg`, ..., `<caption id>.json`, its members next to each
other, so that one range read fetches a group. A skipped caption has only the `.json`, with an `error`: the
index can always be made again from the tar alone.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict

from stablerep.errors import InvalidInput, TornObject
from stablerep.shards.group import Group

MAX_IMAGES = 99
MAX_CAPTION_ID = 10**15
Span = tuple[int, int]


class IndexedGroup(BaseModel):
    """Where a group lies in its tar; spans are (offset, length) of the files' contents in bytes."""

    model_config = ConfigDict(frozen=True)

    caption_id: int
    caption: str
    json_span: Span
    image_spans: tuple[Span, ...]


class SkippedCaption(BaseModel):
    """A caption of the shard for which there are no images, and why."""

    model_config = ConfigDict(frozen=True)

    caption_id: int
    error: str


class ShardIndex(BaseModel):
    """Spans to read any group of a shard by one range read, and a checksum of the whole tar."""

    model_config = ConfigDict(frozen=True)

    size: int
    sha256: str
    groups: tuple[IndexedGroup, ...]
    skipped: tuple[SkippedCaption, ...] = ()
    worker_ms: int = 0
    """That its worker took to generate it; 0 where that is not known: the tar does not say."""

    @property
    def images(self) -> int:
        return sum(len(group.image_spans) for group in self.groups)


def build_tar(groups: Sequence[Group]) -> bytes:
    """The tar of these groups; equal groups, in any order, give equal bytes. Raises InvalidInput."""
    ordered = sorted(groups, key=lambda group: group.caption_id)
    for group, following in pairwise(ordered):
        if group.caption_id == following.caption_id:
            raise InvalidInput(f"caption {group.caption_id} occurs twice in a shard", field="caption_id")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for group in ordered:
            for name, data in _members(group):
                tar.addfile(_header(name, len(data)), io.BytesIO(data))
    return buffer.getvalue()


def index_tar(data: bytes, worker_ms: int = 0) -> ShardIndex:
    """The index of a tar; its whole structure is checked. Raises TornObject for any other bytes."""
    groups: list[IndexedGroup] = []
    skipped: list[SkippedCaption] = []
    last_id = -1
    for caption_id, members in groupby(_entries(data), key=lambda entry: _member_of(entry[0])):
        if caption_id <= last_id:
            raise TornObject(f"caption {caption_id} occurs twice or out of order")
        last_id = caption_id
        *image_spans, json_span = _spans(caption_id, list(members))
        content = parse_group_json(data[json_span[0] : json_span[0] + json_span[1]], caption_id)
        if image_spans:
            groups.append(
                IndexedGroup(
                    caption_id=caption_id,
                    caption=content["caption"],
                    json_span=json_span,
                    image_spans=tuple(image_spans),
                )
            )
        else:
            skipped.append(SkippedCaption(caption_id=caption_id, error=_error(content, caption_id)))
    return ShardIndex(
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        groups=tuple(groups),
        skipped=tuple(skipped),
        worker_ms=worker_ms,
    )


def parse_group_json(data: bytes, caption_id: int) -> dict[str, Any]:
    """The JSON of a group, checked to be that of this caption. Raises TornObject."""
    try:
        content = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise TornObject(f"the JSON of caption {caption_id} cannot be read: {error}") from error
    caption = content.get("caption") if isinstance(content, dict) else None
    if not isinstance(caption, str) or not _encodable(caption):
        raise TornObject(f"the JSON of caption {caption_id} has no caption")
    if type(content.get("caption_id")) is not int or content["caption_id"] != caption_id:
        raise TornObject(f"the JSON of caption {caption_id} is that of {content.get('caption_id')!r}")
    return content


def member_names(caption_id: int, images: int) -> list[str]:
    """Of a group with so many images, in the order in which they lie in a tar."""
    return [*(f"{caption_id:09d}.{number:02d}.jpg" for number in range(images)), f"{caption_id:09d}.json"]


def check_header(raw: bytes, name: str, size: int) -> None:
    """Whether a member's header is that of a file of this name and size. Raises TornObject if not."""
    if not raw.startswith(b"%s\0" % name.encode()) or raw[124:136] != b"%011o\0" % size:
        raise TornObject(f"{name} of {size} bytes is not at its place")


def _members(group: Group) -> Iterator[tuple[str, bytes]]:
    if not 0 <= group.caption_id < MAX_CAPTION_ID:
        raise InvalidInput(f"{group.caption_id} is not in 0..{MAX_CAPTION_ID - 1}", field="caption_id")
    if len(group.encoded) > MAX_IMAGES or not all(group.encoded):
        raise InvalidInput(f"caption {group.caption_id}: 1..{MAX_IMAGES} images, none empty", field="encoded")
    if not group.encoded and not isinstance(group.info.get("error"), str):
        raise InvalidInput(f"caption {group.caption_id} has neither images nor an error", field="encoded")
    if clash := {"caption", "caption_id"} & group.info.keys():
        raise InvalidInput(f"{sorted(clash)} belong to the group itself, not to its info", field="info")
    names = member_names(group.caption_id, len(group.encoded))
    yield from zip(names, (*group.encoded, _group_json(group)), strict=True)


def _group_json(group: Group) -> bytes:
    content = {**group.info, "caption": group.caption, "caption_id": group.caption_id}
    try:
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"caption {group.caption_id} does not fit into JSON: {error}", field="info"
        ) from error


def _member_of(name: str) -> int:
    match = re.fullmatch(r"(\d{9,15})\.(?:\d\d\.jpg|json)", name)
    if match is None or match.group(1) != f"{int(match.group(1)):09d}":
        raise TornObject(f"the tar contains {name!r}, which is no member of a group")
    return int(match.group(1))


def _spans(caption_id: int, members: list[tuple[str, Span]]) -> list[Span]:
    """Spans of the images in order and of the JSON, of a group whose members are all there."""
    if [name for name, _ in members] != member_names(caption_id, len(members) - 1):
        raise TornObject(f"the members of caption {caption_id} are incomplete or out of order")
    if not all(length for _, (_, length) in members):
        raise TornObject(f"a member of caption {caption_id} is empty")
    return [span for _, span in members]


def _error(content: dict[str, Any], caption_id: int) -> str:
    error = content.get("error")
    if not isinstance(error, str) or not _encodable(error):
        raise TornObject(f"caption {caption_id} has neither images nor an error")
    return error


def _encodable(text: str) -> bool:
    """False for the lone surrogates that JSON escapes can smuggle in."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size = size
    header.mode = 0o644
    return header  # time 0, owner 0 and no owner's name are what TarInfo starts with


def _entries(data: bytes) -> Iterator[tuple[str, Span]]:
    """Name and span of each file of a tar. Stricter than `tarfile`, which stops silently at an odd block."""
    block = tarfile.BLOCKSIZE
    offset = 0
    while any(raw := data[offset : offset + block]):
        name, size = _parsed_header(raw, offset)
        start = offset + block
        offset = start + -(-size // block) * block
        if offset > len(data) or any(data[start + size : offset]):
            raise TornObject(f"the tar ends or is damaged within {name}")
        yield name, (start, size)
    whole = -(-(offset + 2 * block) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    if len(data) != whole or any(data[offset:]):
        raise TornObject(
            f"the tar has {len(data)} bytes in place of {whole}, or does not end in its end blocks"
        )


def _parsed_header(raw: bytes, offset: int) -> tuple[str, int]:
    try:
        header = tarfile.TarInfo.frombuf(raw, "utf-8", "strict")
        canonical = _header(header.name, header.size).tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise TornObject(f"no header of a shard's tar at byte {offset}: {error}") from error
    if raw != canonical:
        raise TornObject(f"the header at byte {offset} is not one of a shard's tar")
    return header.name, header.size
