"""What really lies in MinIO: every group of a dataset, read with MinIO's client and `tarfile` alone."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minio import Minio
from PIL import Image


@dataclass(frozen=True)
class Stored:
    """One dataset as it lies in the bucket."""

    captions: tuple[str, ...]
    """Of every group, in the order of their ids."""
    shards: dict[str, str]
    """Name of each tar -> its ETag: a tar that was written again has another."""
    images: int
    faults: tuple[str, ...]
    """What is wrong with single groups: too few images, one that cannot be decoded, the same id twice."""


def read_stored(client: Minio, bucket: str, dataset: str, images_per_caption: int) -> Stored:
    """Reads every shard of the dataset whole."""
    groups: dict[str, dict[str, bytes]] = {}
    shards: dict[str, str] = {}
    faults: list[str] = []
    for found in client.list_objects(bucket, prefix=f"datasets/{dataset}/shards/", recursive=True):
        shards[found.object_name] = found.etag
        names: Counter[str] = Counter()
        for name, data in _members(client, bucket, found.object_name):
            key, _, field = name.partition(".")
            names[name] += 1
            groups.setdefault(key, {})[field] = data
        faults += [f"{found.object_name} holds {name} twice" for name, count in names.items() if count > 1]
    for key, fields in groups.items():
        faults += _faults(key, fields, images_per_caption)
    captions = tuple(json.loads(groups[key]["json"])["caption"] for key in sorted(groups, key=int))
    return Stored(captions, shards, sum(len(fields) - 1 for fields in groups.values()), tuple(faults))


def compare(stored: Stored, captions: Sequence[str]) -> list[str]:
    """What differs from one group for each caption, in order; empty when nothing does."""
    missing = Counter(captions) - Counter(stored.captions)
    extra = Counter(stored.captions) - Counter(captions)
    found = list(stored.faults)
    if missing or extra:
        found.append(f"{missing.total()} groups missing, {extra.total()} too many")
    elif tuple(captions) != stored.captions:
        found.append("the groups are not in the order of the captions")
    return found


def _members(client: Minio, bucket: str, name: str) -> list[tuple[str, bytes]]:
    answer: Any = client.get_object(bucket, name)
    try:
        with tarfile.open(fileobj=io.BytesIO(answer.read())) as tar:
            return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    finally:
        answer.close()
        answer.release_conn()


def _faults(key: str, fields: dict[str, bytes], images_per_caption: int) -> list[str]:
    pictures = [data for field, data in fields.items() if field.endswith(".jpg")]
    found = [] if "json" in fields else [f"group {key} has no JSON"]
    if len(pictures) != images_per_caption:
        found.append(f"group {key} has {len(pictures)} images")
    for data in pictures:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
    return found
