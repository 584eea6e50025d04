"""The captions of one shard in the store: JSON lines, zstd, written when its job is planned."""

import json
from collections.abc import Iterable

from stablerep import zstd
from stablerep.captions.caption import Caption
from stablerep.errors import TornObject
from stablerep.shards.layout import captions_key
from stablerep.storage.interface import Store

MAX_BYTES = 256 << 20
"""Decompressed; far above any shard, it bounds the memory that a damaged object can claim."""


_to_json = json.JSONEncoder(ensure_ascii=False).encode


def write_captions(store: Store, dataset: str, shard: int, captions: Iterable[tuple[int, str]]) -> None:
    """Writes (id, text) pairs; equal captions give equal bytes."""
    store.put(captions_key(dataset, shard), pack_captions(captions))


def pack_captions(captions: Iterable[tuple[int, str]]) -> bytes:
    """What `write_captions` writes."""
    lines = (_to_json({"id": id_, "caption": text}) + "\n" for id_, text in captions)
    return zstd.compress("".join(lines).encode())


def read_captions(store: Store, dataset: str, shard: int) -> list[Caption]:
    """The captions of a shard in order. Raises NotFound, and TornObject for a damaged object."""
    key = captions_key(dataset, shard)
    data = store.get(key)
    try:
        unpacking = zstd.ZstdDecompressor()
        text = unpacking.decompress(data, MAX_BYTES).decode()
        if not unpacking.eof or unpacking.unused_data:
            raise ValueError(f"it is cut off, not one zstd frame, or larger than {MAX_BYTES >> 20} MiB")
        return [_caption(json.loads(line)) for line in text.split("\n") if line]
    except (zstd.ZstdError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TornObject(f"{key} in {store.url} holds no captions: {error}") from error


def _caption(line: dict[str, object]) -> Caption:
    id_, text = line["id"], line["caption"]
    if type(id_) is not int or not isinstance(text, str):
        raise TypeError(f"{line!r} is no caption")
    return Caption(id_, text)
