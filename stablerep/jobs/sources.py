"""A job's captions: which bytes they are, opened for planning, and known again when they have changed."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from stablerep.captions import Source, open_source
from stablerep.errors import NotFound, TornObject
from stablerep.jobs.job import CaptionSource
from stablerep.storage.layout import upload_key, upload_part_key
from stablerep.storage.store import Store


@dataclass(frozen=True)
class SourceIdentity:
    """Which bytes a job's captions are; both change when the object at the same key is replaced."""

    size: int
    etag: str


def identify_source(store: Store, source: CaptionSource) -> SourceIdentity:
    """Size and ETag of the source as it is now. Raises `NotFound` when it is gone."""
    stats = [(key, store.stat(key)) for key in _source_keys(store, source)]
    gone = [key for key, info in stats if info is None]
    if gone:
        raise NotFound(f"there is no object {gone[0]} in {store.url}")
    found = [info for _, info in stats if info is not None]
    if len(found) == 1:
        return SourceIdentity(found[0].size, found[0].etag)
    etags = hashlib.sha256("\n".join(info.etag for info in found).encode()).hexdigest()
    return SourceIdentity(sum(info.size for info in found), etags)


def open_job_source(store: Store, source: CaptionSource) -> Source:
    """The bytes of the source, an upload's parts as one file. Raises `NotFound` when it is gone."""
    keys = _source_keys(store, source)
    if source.uri:
        return open_source(keys[0], store=store)
    return open_source(keys, store=store, name=str(_upload(store, source.upload_id)["file_name"]))


def source_facts(source: CaptionSource, identity: SourceIdentity) -> dict[str, Any]:
    """What `dataset.json` says of where the captions come from."""
    return {**asdict(source), **asdict(identity)}


def _source_keys(store: Store, source: CaptionSource) -> list[str]:
    if source.uri:
        return [source.uri]
    upload = _upload(store, source.upload_id)
    return [upload_part_key(source.upload_id, part) for part in range(int(upload["parts"]))]


def _upload(store: Store, upload_id: str) -> dict[str, Any]:
    key = upload_key(upload_id)
    try:
        return dict(json.loads(store.get(key)))
    except ValueError as error:
        raise TornObject(f"{key} in {store.url} cannot be read: {error}") from error
