"""What tests of training runs share: a small dataset, made without a generator; a run that takes seconds."""

import io
from datetime import UTC, datetime

import numpy as np
from PIL import Image

from stablerep.shards import DatasetInfo, Group, build_tar, commit_shard
from stablerep.shards import write_dataset as write_description
from stablerep.storage import open_store

CAPTIONS, IMAGES, PER_SHARD = 24, 3, 8
SETTINGS = {
    "method": {"name": "stablerep", "images_per_caption": 3},
    "views_per_batch": 24,
    "steps": 40,
    "encoder.kwargs": {
        "layers": [1, 1, 1, 1],
        "channels": [8, 8, 16, 16],
        "stem_width": 8,
        "stem_type": "",
    },
    "encoder.image_size": 16,
    "head": {"hidden": 32, "out": 16},
    "optimizer": {"lr": 0.005, "warmup_steps": 5},
    "precision": "float32",
    "checkpoint_every": 10,
    "log_every": 2,
}
"""Over the preset `demo`."""


def write_stripes(url: str, name: str = "stripes") -> str:
    """Captions that name a colour and a stripe; the images of one differ in brightness and noise."""
    random = np.random.default_rng(0)
    groups = []
    for number in range(CAPTIONS):
        colour, period = random.uniform(40, 215, 3), 2 + number % 5
        stripe = ((np.arange(16) // period) % 2)[:, None, None] * 60.0
        images = []
        for _ in range(IMAGES):
            pixels = (colour + stripe) * random.uniform(0.8, 1.1) + random.normal(0, 8, (16, 16, 3))
            buffer = io.BytesIO()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=95)
            images.append(buffer.getvalue())
        groups.append(Group(number, f"colour {number}", tuple(images)))
    store = open_store(url)
    for shard in range(CAPTIONS // PER_SHARD):
        tar = build_tar(groups[shard * PER_SHARD : (shard + 1) * PER_SHARD])
        commit_shard(store, name, shard, tar)
    return f"{url}/datasets/{name}"


def describe(url: str, name: str = "stripes") -> None:
    """Writes its dataset.json, as a job does before its shards."""
    info = DatasetInfo(
        name=name,
        recipe={"images_per_caption": IMAGES},
        recipe_digest="0" * 64,
        job_seed=0,
        captions_per_shard=PER_SHARD,
        source={"uri": "captions.txt"},
        create_time=datetime.now(UTC),
    )
    write_description(open_store(url), info)
