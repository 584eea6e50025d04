"""Writes images of one's own as a dataset: images of equal captions are a group, groups are shards."""

import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageOps

from stablerep.config.names import check_dataset
from stablerep.data.files import DAMAGED, why_damaged
from stablerep.errors import AlreadyExists, InvalidInput, NotFound
from stablerep.importing.sources import OwnImage
from stablerep.runs.records import now
from stablerep.shards import (
    DatasetInfo,
    Group,
    build_tar,
    commit_shard,
    read_dataset,
    read_index,
    write_dataset,
)
from stablerep.shards.group import skipped_group
from stablerep.shards.manifest import block_count, update_block
from stablerep.storage import Store

IMAGES_PER_GROUP = 10
IMAGES_PER_SHARD = 1000
_READERS = 8
_ORIENTATION = 0x0112


@dataclass
class Imported:
    """What an import came to. `skipped` are images that could not be read, each with what was wrong."""

    captions: int = 0
    groups: int = 0
    images: int = 0
    smallest_group: int = 0
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Preparation:
    """How images are stored: JPEG files as they are, but for those that are too large, turned, or no JPEG.

    `size`: pixels of the shorter side that larger images are shrunk to; 0: none are.
    """

    size: int = 512
    quality: int = 95


def import_images(
    store: Store,
    name: str,
    images: Sequence[OwnImage],
    preparation: Preparation | None = None,
    *,
    images_per_group: int = IMAGES_PER_GROUP,
    progress: Callable[[int], None] = lambda images: None,
) -> Imported:
    """Writes the dataset; the same call goes on with one that was interrupted.

    `progress` is told how many images are done. Raises AlreadyExists if the name is that of another dataset.
    """
    check_dataset(name)
    preparation = preparation or Preparation()
    groups = _groups(images, images_per_group)
    shards = _shards(groups)
    info = _claim(store, name, images, preparation, len(shards))
    result = Imported(captions=len({image.caption for image in images}))
    done = 0
    with ThreadPoolExecutor(_READERS) as readers:
        for number, shard in enumerate(shards):
            index = read_index(store, name, number)
            if index is None:
                made = list(readers.map(lambda one: _prepare(one[0], one[1], preparation), shard))
                result.skipped += [problem for _, problems in made for problem in problems]
                index = commit_shard(store, name, number, build_tar([group for group, _ in made]))
            result.groups += len(index.groups)
            result.images += index.images
            sizes = [len(group.image_spans) for group in index.groups]
            result.smallest_group = min([size for size in (result.smallest_group, *sizes) if size], default=0)
            done += sum(len(members) for _, members in shard)
            progress(done)
    if not result.images:
        raise InvalidInput(
            f"none of the images can be read: {'; '.join(result.skipped[:3])}", field="sources"
        )
    counts = {"shards": len(shards), "groups": result.groups, "images": result.images}
    write_dataset(store, info.model_copy(update={"counts": counts}))
    for block in range(block_count(len(shards))):
        update_block(store, name, block, len(shards), over=True)
    return result


def _groups(images: Sequence[OwnImage], most: int) -> list[list[OwnImage]]:
    """Images of one caption together, at most so many in a group, the groups of a caption of even sizes."""
    by_caption: dict[str, list[OwnImage]] = {}
    for image in images:
        by_caption.setdefault(image.caption, []).append(image)
    groups = []
    for members in by_caption.values():
        parts = -(-len(members) // most)
        groups += [members[part::parts] for part in range(parts)]
    return groups


def _shards(groups: list[list[OwnImage]]) -> list[list[tuple[int, list[OwnImage]]]]:
    """Numbered groups, about IMAGES_PER_SHARD images a shard."""
    shards: list[list[tuple[int, list[OwnImage]]]] = []
    room = 0
    for number, members in enumerate(groups):
        if not shards or room < len(members):
            shards.append([])
            room = IMAGES_PER_SHARD
        shards[-1].append((number, members))
        room -= len(members)
    return shards


def _claim(
    store: Store, name: str, images: Sequence[OwnImage], preparation: Preparation, shards: int
) -> DatasetInfo:
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.name}\0{image.caption}\0".encode("utf-8", "surrogatepass"))
    recipe: dict[str, Any] = {"imported": True, "size": preparation.size, "jpeg_quality": preparation.quality}
    info = DatasetInfo(
        name=name,
        recipe=recipe,
        recipe_digest=digest.hexdigest(),
        job_seed=0,
        captions_per_shard=IMAGES_PER_SHARD,
        source={"uri": "stablerep import", "images": len(images), "shards": shards},
        create_time=now(),
    )
    if write_dataset(store, info, if_absent=True):
        return info
    try:
        there = read_dataset(store, name)
    except NotFound:  # deleted meanwhile
        there = info
    if (there.recipe, there.recipe_digest) != (recipe, info.recipe_digest):
        raise AlreadyExists(
            f"dataset {name} is there in {store.url} with other images or settings; take another --name",
            field="name",
        )
    return there


def _prepare(number: int, members: Sequence[OwnImage], preparation: Preparation) -> tuple[Group, list[str]]:
    encoded, files, problems = [], [], []
    for image in members:
        try:
            encoded.append(_stored(image.read(), preparation))
            files.append(image.name)
        except DAMAGED as error:
            problems.append(f"{image.name}: {why_damaged(error)}")
    caption = members[0].caption
    if not encoded:
        return skipped_group(number, caption, "; ".join(problems)[:500]), problems
    info: dict[str, Any] = {"files": files}
    if members[0].label is not None:
        info["label"] = members[0].label
    return Group(number, caption, tuple(encoded), info), problems


def _stored(data: bytes, preparation: Preparation) -> bytes:
    """The image as it is kept. Raises what Pillow raises for one that is damaged."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        shorter = min(image.size)
        too_large = bool(preparation.size) and shorter > preparation.size
        turned = image.getexif().get(_ORIENTATION, 1) != 1
        if image.format == "JPEG" and image.mode == "RGB" and not too_large and not turned:
            return data
        pixels = ImageOps.exif_transpose(image).convert("RGB")
    if too_large:
        factor = preparation.size / shorter
        width, height = (max(1, round(side * factor)) for side in pixels.size)
        pixels = pixels.resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", quality=preparation.quality)
    return buffer.getvalue()
