"""The captions of one shard in the store: JSON lines, zstd, written when its job is planned."""

import json
from collections.abc import Iterable

import zstandard

from stablerep.captions.caption import Caption
from stablerep.errors import TornObject
from stablerep.shards.layout import captions_key
from stablerep.storage.interface import Store

MAX_BYTES = 256 << 20
"""Decompressed; far above any shard, it bounds the memory that a damaged object can claim."""


_to_json = json.JSONEncoder(ensure_ascii=False).encode


def write_captions(store: Store, dataset: str, shard: int, captions: Iterable[tuple[int, str]]) -> None:
    """Writes (id, text) pairs; equal captions give equal bytes."""
    store.put(captions_key(dataset, shard), pack_captions(captions, zstandard.ZstdCompressor()))


def pack_captions(captions: Iterable[tuple[int, str]], compressor: zstandard.ZstdCompressor) -> bytes:
    """What `write_captions` writes; with a compressor of the caller's own (it belongs to one thread)."""
    lines = (_to_json({"id": id_, "caption": text}) + "\n" for id_, text in captions)
    return compressor.compress("".join(lines).encode())


def read_captions(store: Store, dataset: str, shard: int) -> list[Caption]:
    """The captions of a shard in order. Raises NotFound, and TornObject for a damaged object."""
    key = captions_key(dataset, shard)
    data = store.get(key)
    try:
        text = zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_BYTES).decode()
        return [_caption(json.loads(line)) for line in text.split("\n") if line]
    except (zstandard.ZstdError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TornObject(f"{key} in {store.url} holds no captions: {error}") from error


def _caption(line: dict[str, object]) -> Caption:
    id_, text = line["id"], line["caption"]
    if type(id_) is not int or not isinstance(text, str):
        raise TypeError(f"{line!r} is no caption")
    return Caption(id_, text)
