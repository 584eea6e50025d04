"""What really lies in MinIO: every group of a dataset, read with MinIO's client and `tarfile` alone."""

import io
import json
import tarfile
from collections import Counter
from typing import Any

from minio import Minio

BUCKET = "stablerep"


def problems(client: Minio, dataset: str, captions: list[str], images_per_caption: int) -> list[str]:
    """What differs from one whole group for each caption, in order; empty when nothing does."""
    found: list[str] = []
    seen: dict[int, str] = {}
    for each in client.list_objects(BUCKET, prefix=f"datasets/{dataset}/shards/", recursive=True):
        names: Counter[str] = Counter()
        for name, data in _members(client, str(each.object_name)):
            key, _, field = name.partition(".")
            names[key if field != "json" else f"{key}.json"] += 1
            if field == "json":
                if int(key) in seen:
                    found.append(f"group {key} is there twice")
                seen[int(key)] = json.loads(data)["caption"]
            elif data[:3] != b"\xff\xd8\xff":
                found.append(f"{name} is no JPEG file")
        found += [
            f"group {key} has {count} images"
            for key, count in names.items()
            if not key.endswith(".json") and count != images_per_caption
        ]
    if [seen[key] for key in sorted(seen)] != captions:
        found.append(f"{len(seen)} groups for {len(captions)} captions, or others")
    return found


def etags(client: Minio, dataset: str) -> dict[str, str]:
    """Name of each tar -> its ETag: one that was written again has another."""
    found = client.list_objects(BUCKET, prefix=f"datasets/{dataset}/shards/", recursive=True)
    return {str(each.object_name): str(each.etag) for each in found}


def read(client: Minio, key: str) -> bytes:
    answer: Any = client.get_object(BUCKET, key)
    try:
        data: bytes = answer.read()
    finally:
        answer.close()
        answer.release_conn()
    return data


def _members(client: Minio, key: str) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(read(client, key))) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
