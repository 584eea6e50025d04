"""A job's captions: which bytes they are, opened for planning, and known again when they have changed."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from stablerep.captions import Source
from stablerep.captions.patterns import expand, is_pattern, matcher
from stablerep.captions.remote.access import STORE_ONLY, Remote
from stablerep.captions.remote.hub import open_hub
from stablerep.captions.remote.urls import SourceUrl, parse_url
from stablerep.captions.source import READ_AHEAD, TAR_READ_AHEAD, many_sources, object_reader
from stablerep.errors import InvalidInput, NotFound, TornObject, Unavailable
from stablerep.jobs.job import CaptionSource
from stablerep.shards.layout import upload_key, upload_part_key
from stablerep.storage.interface import ObjectInfo, Store
from stablerep.storage.keys import check_key

MAX_WEB_FILES = 1000
"""Of one source behind http(s), where each is asked for its size; a bucket lists a thousand at a time."""
WEB_CALLS = 8
WEB_SECONDS = 60.0
"""For asking all files of a source for their sizes."""
_MANY_STATS = 16
"""Most names of a pattern that are looked up one by one; more are taken from a listing."""


@dataclass(frozen=True)
class SourceIdentity:
    """Which bytes a job's captions are; both change when the object at the same key is replaced."""

    size: int
    etag: str


@dataclass(frozen=True)
class _Files:
    """The files of a source: what they are, and how one is opened."""

    infos: list[ObjectInfo]
    many: bool
    open: Callable[[ObjectInfo], BinaryIO]


def look_up(
    store: Store, source: CaptionSource, remote: Remote = STORE_ONLY
) -> tuple[SourceIdentity, Source]:
    """The source as it is now, its identity and its bytes; each file is asked for once, none is read.

    Returns:
        Size and ETag, of several files the sum and a digest; the files, an upload's parts as one.
    Raises:
        NotFound: it is gone.
        InvalidInput: a URL that is not, or no longer, allowed.
        StoreError, Unavailable: try again later.
    """
    if not source.uri:
        upload = _upload(store, source.upload_id)
        keys = [upload_part_key(source.upload_id, part) for part in range(int(upload["parts"]))]
        infos = [_there(key, store.stat(key), store.url) for key in keys]
        sizes = [info.size for info in infos]
        whole = Source(str(upload["file_name"]), sum(sizes), lambda: object_reader(store, keys, sizes))
        return _identity(infos, [info.etag for info in infos], many=len(infos) > 1), whole
    files = _files(store, source.uri, remote)
    identity = _identity(
        files.infos, [f"{info.key}\t{info.size}\t{info.etag}" for info in files.infos], many=files.many
    )
    members = [_source(info, files.open) for info in files.infos]
    return identity, many_sources(source.uri, members) if files.many else members[0]


def _identity(infos: list[ObjectInfo], lines: list[str], *, many: bool) -> SourceIdentity:
    if not many:
        return SourceIdentity(infos[0].size, infos[0].etag)
    return SourceIdentity(
        sum(info.size for info in infos), hashlib.sha256("\n".join(lines).encode()).hexdigest()
    )


def check_source_uri(store: Store, uri: str, remote: Remote = STORE_ONLY) -> tuple[str, str]:
    """The URI as a job keeps it, and the file name that tells its format; nothing is read.

    Args:
        uri: a key of the store, or a URL that `remote` allows; with `{00000..00099}` or `*`, many of them.
    Raises:
        InvalidInput: such a key no object can have, or such a URL may not be read.
    """
    names = expand(uri)
    if "://" not in uri:
        for name in names:
            check_key(name)
        return uri, uri.rpartition("/")[2]
    urls = [remote.allowed.check(name) for name in names]
    if urls[0].scheme in ("http", "https") and ("*" in urls[0].path or len(urls) > MAX_WEB_FILES):
        raise InvalidInput(
            f"http(s) lists no files and takes at most {MAX_WEB_FILES} by a range {{000..999}}", field="uri"
        )
    return uri if is_pattern(uri) else str(urls[0]), urls[0].name


def source_facts(source: CaptionSource, identity: SourceIdentity) -> dict[str, Any]:
    """What `dataset.json` says of where the captions come from."""
    return {**asdict(source), **asdict(identity)}


def _files(store: Store, uri: str, remote: Remote) -> _Files:
    """Raises NotFound where any of them is missing."""
    if "://" not in uri:
        return _in_objects(store, uri, lambda key: key, store.url)
    check_source_uri(store, uri, remote)
    names = expand(uri)
    first = remote.allowed.check(names[0])
    if first.scheme in ("http", "https"):
        return _in_web(remote, [str(remote.allowed.check(name)) for name in names], is_pattern(uri))
    if first.scheme == "hf":
        return _limited(_in_objects(open_hub(), uri, lambda key: key, "the hub"), remote)
    return _limited(_in_bucket(remote, first, uri), remote)


def _limited(files: _Files, remote: Remote) -> _Files:
    for info in files.infos:
        if info.size > remote.size_limit:
            raise InvalidInput(
                f"{info.key} has {info.size} bytes; at most {remote.size_limit} are read", field="uri"
            )
    return files


def _in_bucket(remote: Remote, first: SourceUrl, uri: str) -> _Files:
    """Every name of a pattern lies in the bucket of the first: a bucket's name with a range is refused."""
    beginning = f"s3://{first.host}/"
    if not uri.startswith(beginning):
        raise InvalidInput("the bucket cannot be a pattern, and is written in small letters", field="uri")
    bucket = remote.open_bucket(first.host)
    return _in_objects(bucket, uri.removeprefix(beginning), check_key, bucket.url)


def _in_objects(objects: Any, uri: str, key_of: Callable[[str], str], where: str) -> _Files:
    """Files of what can be listed: a store, a bucket, the hub."""

    def open_file(info: ObjectInfo) -> BinaryIO:
        return object_reader(objects, [info.key], [info.size], _read_ahead(info.key))

    if not is_pattern(uri):
        key = key_of(uri)
        return _Files([_there(key, objects.stat(key), where)], False, open_file)
    names = [key_of(name) for name in expand(uri)]
    if len(names) <= _MANY_STATS and "*" not in uri:
        return _Files([_there(name, objects.stat(name), where) for name in names], True, open_file)
    infos = list(_listed(objects, names))
    if not infos:
        raise NotFound(f"there are no files {uri} in {where}")
    return _Files(infos, True, open_file)


def _listed(objects: Any, names: list[str]) -> Iterator[ObjectInfo]:
    """The files of these names, in order, from one listing of each folder they lie in."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    listed: dict[str, dict[str, ObjectInfo]] = {}
    for name in names:
        folder = name.rpartition("/")[0]
        if folder not in listed:
            beginning = _beginning([other.partition("*")[0] for other in folders[folder]])
            listed = {folder: {info.key: info for info in objects.list(beginning)}}
        there = listed[folder]
        if "*" in name:
            _, whole = matcher(name)
            yield from (there[key] for key in sorted(there) if whole.fullmatch(key))
        else:
            yield _there(name, there.get(name), folder)


def _beginning(names: list[str]) -> str:
    """What all of the names begin with."""
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:same]


def _in_web(remote: Remote, urls: list[str], many: bool) -> _Files:
    """Files behind http(s) URLs, asked for their sizes a few at a time."""

    deadline = time.monotonic() + WEB_SECONDS

    def stat(url: str) -> ObjectInfo:
        if time.monotonic() > deadline:
            raise Unavailable(f"{len(urls)} files were not looked up within {WEB_SECONDS:.0f} s; try again")
        with closing(remote.open_web()) as web:
            return _there(url, web.stat(url), "")

    def open_file(info: ObjectInfo) -> BinaryIO:
        name = remote.allowed.check(info.key).name
        return object_reader(remote.open_web(info), [info.key], [info.size], _read_ahead(name))

    with ThreadPoolExecutor(min(WEB_CALLS, len(urls)), thread_name_prefix="stat") as threads:
        return _Files(list(threads.map(stat, urls)), many, open_file)


def _source(info: ObjectInfo, open_file: Callable[[ObjectInfo], BinaryIO]) -> Source:
    name = parse_url(info.key).name if "://" in info.key else info.key.rpartition("/")[2]
    return Source(name, info.size, lambda: open_file(info))


def _read_ahead(name: str) -> int:
    return TAR_READ_AHEAD if name.endswith(".tar") else READ_AHEAD


def _there(key: str, info: ObjectInfo | None, where: str) -> ObjectInfo:
    if info is None:
        raise NotFound(f"there is no object {key.partition('?')[0]}" + (f" in {where}" if where else ""))
    return info


def _upload(store: Store, upload_id: str) -> dict[str, Any]:
    key = upload_key(upload_id)
    try:
        return dict(json.loads(store.get(key)))
    except ValueError as error:
        raise TornObject(f"{key} in {store.url} cannot be read: {error}") from error
