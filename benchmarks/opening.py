"""Opening a dataset of 10 million captions for training: seconds and memory of a process, from a manifest.

python -m benchmarks.opening                      # writes benchmarks/results/opening.json, about 5 minutes
python -m benchmarks.opening --captions 100000    # a short look; writes nothing

The manifest is that of a dataset whose images are not there: nothing reads them here. What is opened is all
that a rank needs before its first batch: the groups, their labels, the order of an epoch, images seen.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.imports import hardware

RESULT = Path(__file__).parent / "results" / "opening.json"
CAPTIONS, IMAGES, A_SHARD = 10_000_000, 10, 16
BEFORE_SHARDS = 4000
ROOT = Path(__file__).parent.parent


def write_manifest(folder: Path, captions: int) -> None:
    """The blocks of a dataset of so many captions, 16 a shard, ten JPEGs of about 20 kB a caption."""
    from stablerep.shards.block import METADATA, BlockShards, build_block, pack_block, text_hash
    from stablerep.shards.layout import SHARDS_PER_BLOCK, block_key, manifest_key, planned_key
    from stablerep.shards.manifest import BlockEntry, Manifest
    from stablerep.storage import open_store

    store = open_store(folder)
    schema = build_block([]).schema
    entries = []
    rows_a_block = SHARDS_PER_BLOCK * A_SHARD
    for number in range(-(-captions // rows_a_block)):
        rng = np.random.default_rng(number)
        rows = min(rows_a_block, captions - number * rows_a_block)
        first = number * rows_a_block
        lengths = rng.integers(15_000, 25_000, (rows, IMAGES + 1), dtype=np.uint32)
        lengths[:, -1] = 400
        sizes = (-(-lengths.astype(np.int64) // 512) * 512 + 512).sum(1)
        starts = np.concatenate(
            [np.cumsum(s) - s + 512 for s in np.split(sizes, range(A_SHARD, rows, A_SHARD))]
        )
        texts = [
            f"a photograph of thing {i} beside thing {i * 7919 % captions}, outdoors"
            for i in range(first, first + rows)
        ]
        groups = [min(A_SHARD, rows - k) for k in range(0, rows, A_SHARD)]
        shards = BlockShards(
            numbers=list(range(number * SHARDS_PER_BLOCK, number * SHARDS_PER_BLOCK + len(groups))),
            groups=groups,
            images=[IMAGES * count for count in groups],
            skipped=[0] * len(groups),
            sizes=[int(part.sum()) for part in np.split(sizes, range(A_SHARD, rows, A_SHARD))],
            sha256=[sha256(str(k).encode()).hexdigest() for k in range(len(groups))],
        )
        offsets = pa.array(np.arange(0, rows * (IMAGES + 1) + 1, IMAGES + 1, dtype=np.int32))
        columns = [
            pa.array(np.arange(first, first + rows)),
            pa.array(texts, pa.large_string()),
            pa.array([text_hash(text) for text in texts], pa.uint64()),
            pa.array(starts),
            pa.ListArray.from_arrays(offsets, pa.array(lengths.ravel())),
        ]
        arrays = [column.cast(field.type) for column, field in zip(columns, schema, strict=True)]
        described = schema.with_metadata({METADATA: shards.model_dump_json().encode()})
        content = pack_block(pa.RecordBatch.from_arrays(arrays, schema=described))
        digest = sha256(content).hexdigest()
        store.put(block_key("large", number, digest), content)
        entries.append(
            BlockEntry(
                number=number,
                end=number * SHARDS_PER_BLOCK + len(groups),
                groups=rows,
                images=rows * IMAGES,
                size=len(content),
                sha256=digest,
            )
        )
    store.put(manifest_key("large"), Manifest(blocks=tuple(entries)).model_dump_json().encode())
    store.put(planned_key("large"), json.dumps({"shards": entries[-1].end}).encode())


def write_indexes(folder: Path, shards: int) -> None:
    """Indexes of so many shards of the same kind, as they were opened before there was a manifest."""
    from stablerep.shards import IndexedGroup, ShardIndex
    from stablerep.shards.layout import index_key
    from stablerep.storage import open_store

    store = open_store(folder)

    def index(shard: int) -> bytes:
        place, groups = 512, []
        for row in range(A_SHARD):
            spans = []
            for length in [20_000] * IMAGES + [400]:
                spans.append((place, length))
                place += -(-length // 512) * 512 + 512
            *images, content = spans
            caption = f"a photograph of thing {shard * A_SHARD + row} beside thing {row}, outdoors"
            groups.append(
                IndexedGroup(
                    caption_id=shard * A_SHARD + row,
                    caption=caption,
                    json_span=content,
                    image_spans=tuple(images),
                )
            )
        return ShardIndex(size=place, sha256="0" * 64, groups=tuple(groups)).model_dump_json().encode()

    store.put_many((index_key("indexes", shard), index(shard)) for shard in range(shards))


def private_bytes() -> int:
    """Memory that is this process's own; pages of mapped files are the machine's."""
    found = re.search(
        r"^Anonymous: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text(encoding="ascii"), re.M
    )
    assert found is not None
    return int(found[1]) * 1024


def open_one(url: str, by: str) -> dict[str, float]:
    """Opens a dataset as a rank does, to draw captions or (SimCLR) images; in a process of its own."""
    from stablerep.data.batches.order import BatchOrder
    from stablerep.data.corpus.positive_sets import (
        Corpus,
        GroupDataset,
        make_positive_sets,
        single_images,
    )
    from stablerep.training.seen import SeenImages

    start = private_bytes()
    most, over = start, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.02):
            most = max(most, private_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    corpus = Corpus((GroupDataset(url),))
    opened = time.monotonic() - began
    if by == "image":
        order = BatchOrder(single_images(corpus.image_counts), 0, 1376, 1)
    else:
        sets = make_positive_sets(corpus.labels(), corpus.image_counts, at_least=6)
        order = BatchOrder(sets, 0, 1376, 6)
    batch = order.batch(0)
    seen = SeenImages(corpus.image_counts)
    seen.add(batch.groups, batch.images)
    texts = [corpus.captions[group] for group in batch.groups[:, 0].tolist()]
    seconds = time.monotonic() - began
    assert len(texts) == 1376
    kept = private_bytes()
    over.set()
    watcher.join()
    return {
        "groups": len(corpus.image_counts),
        "opened_seconds": round(opened, 2),
        "seconds": round(seconds, 2),
        "private_mb": round((kept - start) / 1e6, 1),
        "most_private_mb": round((most - start) / 1e6, 1),
    }


def in_process(url: str, environment: dict[str, str], by: str = "caption") -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.opening", "--open", url, "--by", by]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def from_s3(folder: Path, store: Path, captions: int) -> dict[str, Any]:
    from stablerep.storage import open_store
    from stablerep.testing.servers import MinioServer
    from tests.tools import tool

    (folder / "minio").mkdir()
    server = MinioServer(tool("minio"), folder / "minio")
    try:
        os.environ.update(server.environment)
        there, local = open_store("s3://bench/store"), open_store(store)
        for info in local.list("datasets/large/"):
            there.put(info.key, local.get(info.key))
        environment = {**server.environment, "XDG_CACHE_HOME": str(folder / "cache")}
        url = "s3://bench/store/datasets/large"
        return {
            "first process of a machine": in_process(url, environment),
            "the next": in_process(url, environment),
        }
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--captions", type=int, default=CAPTIONS)
    parser.add_argument("--open", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--by", choices=("caption", "image"), default="caption", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        print(json.dumps(open_one(arguments.open, arguments.by)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = folder / "store"
        write_manifest(store, arguments.captions)
        write_indexes(store, BEFORE_SHARDS)
        size = sum(path.stat().st_size for path in (store / "datasets/large/manifest").iterdir())
        report = {
            "date": datetime.now(UTC).date().isoformat(),
            "hardware": hardware(),
            "command": "python -m benchmarks.opening",
            "python": platform.python_version(),
            "what": f"{arguments.captions:,} captions x {IMAGES} images, {A_SHARD} captions a shard: groups, "
            "labels, the order of an epoch, the first batch, images seen; memory beyond imports, without "
            "the pages of mapped files, which the processes of a machine share",
            "manifest_mb": round(size / 1e6, 1),
            "indexes alone": in_process((store / "datasets/indexes").as_uri(), {}),
            "manifest, local folder": in_process((store / "datasets/large").as_uri(), {}),
            "manifest, local folder, to draw images": in_process(
                (store / "datasets/large").as_uri(), {}, by="image"
            ),
            "manifest, MinIO": from_s3(folder, store, arguments.captions),
        }
    print(json.dumps(report, indent=1))
    if arguments.captions == CAPTIONS:
        RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
