"""What feeds a rank's steps: captions that images are drawn from, their order, the loader of its shares."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stablerep.data.batches.loader import RankLoader, Texts
from stablerep.data.batches.order import BatchOrder, MixtureOrder
from stablerep.data.corpus.positive_sets import (
    Corpus,
    PositiveSets,
    first_with_text,
    make_positive_sets,
    merged_positive_sets,
    single_images,
    without_words,
)
from stablerep.data.images import ImageSource
from stablerep.progress import console
from stablerep.runs.config import TrainConfig
from stablerep.storage import open_store
from stablerep.training.run import open_corpus

SHARED = Path("/dev/shm")
_LONGER = 1.5  # the longer side of an image, as a batch pads it, to its shorter one


@dataclass(frozen=True)
class Place:
    """Where a share is used: which rank of how many, on which kind of device; `patches` that need noise."""

    rank: int
    ranks: int
    device: str
    patches: int


def loads_in_process(config: TrainConfig, place: Place, *, in_memory: bool, follows: bool) -> bool:
    """Whether a process of its own makes the batches ahead; else a thread of the one that trains.

    By default on a GPU, whose process must not wait for Python's lock, if the machine's shared memory holds
    the batches of all its ranks. Never for pixels that are in memory already, nor for datasets that are still
    generated.
    """
    if in_memory or follows or not config.prefetch:
        return False
    if config.load_in != "auto":
        return config.load_in == "process"
    if place.device != "cuda":
        return False
    needed, room = shared_bytes(config, place), shared_memory()
    if needed > room and place.rank == 0:
        console.print(
            f"a thread reads and decodes: a process of its own would need {needed / 1e9:.1f} GB of shared "
            f"memory, and {SHARED} has {room / 1e9:.1f} (in the chart: trainer.sharedMemory)"
        )
    return needed <= room


def shared_bytes(config: TrainConfig, place: Place) -> int:
    """Of the batches that are ahead, made and handed over at one time, of all ranks of this machine."""
    side = config.encoder.image_size if config.augments_on_cpu(place.device) else config.decoded_resolution
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    each = config.views_per_batch // place.ranks * 3 * side**2 * _LONGER
    return round(each * (config.prefetch + 2) * here)


def shared_memory() -> int:
    """Bytes that are free in the machine's, or the container's, shared memory; 0 where it has none."""
    return shutil.disk_usage(SHARED).free if SHARED.is_dir() else 0


def open_loader(config: TrainConfig, place: Place) -> RankLoader:
    """The loader of a run that has begun, opened by another process of the rank; it keeps no pixels.

    What it makes is in shared memory: whoever receives it pins it.
    """
    corpus = open_corpus(open_store(config.store_url), config.run_name, config)
    texts, sets = positive_sets(config, corpus)
    source = ImageSource(corpus, memory=None, resolution=config.decoded_resolution)
    loader = make_loader(config, place, corpus, make_order(config, corpus, sets), source, texts)
    return replace(loader, memory="shared")


def positive_sets(config: TrainConfig, corpus: Corpus) -> tuple[Sequence[str], PositiveSets]:
    """The texts that labels number, and what captions are drawn from."""
    needs = config.method.needs()
    if needs.by_image:
        return corpus.captions, single_images(corpus.image_counts)
    if not config.drop_words:
        sets = make_positive_sets(corpus.labels(), corpus.image_counts, at_least=needs.images)
        return corpus.captions, sets
    texts = without_words(corpus.captions, config.drop_words)
    parts = corpus.parts if config.dataset_weights else None
    labels = first_with_text(texts)
    return texts, merged_positive_sets(labels, corpus.image_counts, at_least=needs.images, parts=parts)


def make_order(config: TrainConfig, corpus: Corpus, sets: PositiveSets) -> BatchOrder | MixtureOrder:
    """Which captions and images each step sees."""
    captions, images = config.captions_per_batch, config.method.needs().images
    if not config.dataset_weights:
        return BatchOrder(sets, config.seed, captions, images, config.follow)
    parts = sets.of_groups(corpus.parts)
    return MixtureOrder(sets, config.seed, captions, images, parts, config.dataset_weights, config.follow)


def make_loader(
    config: TrainConfig,
    place: Place,
    corpus: Corpus,
    order: BatchOrder | MixtureOrder,
    source: ImageSource,
    texts: Sequence[str],
) -> RankLoader:
    """What makes a rank's share of every batch."""
    needs = config.method.needs()
    read = None
    if needs.texts:
        from stablerep.models.tokenizer import load_tokenizer

        read = Texts(texts, load_tokenizer(needs.tokenizer))
    return RankLoader(
        order=order,
        source=source,
        augment=config.augment,
        crops=needs.crops,
        rank=place.rank,
        ranks=place.ranks,
        patches=place.patches,
        texts=read,
        local=needs.local,
        counts_there=corpus.counts_there if corpus.growing else None,
        view_size=config.encoder.image_size if config.augments_on_cpu(place.device) else None,
        memory="pinned" if place.device == "cuda" else "plain",
    )
