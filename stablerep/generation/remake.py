"""One stored group made again, to see whether its bytes are the same."""

import logging
from dataclasses import dataclass

from stablerep.captions import Caption
from stablerep.generation.compiled import Say, compile_networks
from stablerep.generation.generator import Generator
from stablerep.generation.pipeline import load_pipeline
from stablerep.shards import Group, find_group, read_dataset, read_group, recipe_of
from stablerep.storage import Store

logger = logging.getLogger("stablerep.generation")


@dataclass(frozen=True)
class Remade:
    """A group as it is stored, and as it was made again.

    `exception` says why the bytes may differ all the same; empty where they must be equal on one kind of
    hardware and software.
    """

    stored: Group
    made: Group
    exception: str = ""

    @property
    def equal(self) -> list[bool]:
        """Of each stored image, whether the one made again has the same bytes."""
        pairs = zip(self.stored.encoded, self.made.encoded, strict=False)
        return [stored == made for stored, made in pairs] + [False] * (
            len(self.stored.encoded) - len(self.made.encoded)
        )


def remake_group(
    store: Store, dataset: str, caption_id: int, *, device: str = "", say: Say = logger.info
) -> Remade:
    """Makes the images of one caption again as the dataset's recipe and seed say.

    `say` is told of compiled networks that are loaded or made, where the group was made by such.

    Raises:
        NotFound: the dataset, or a group of that caption in its finished shards, is not there.
        InvalidInput: the dataset was not made by a job, or the caption could not be generated.
        TornObject: its recipe cannot be followed.
    """
    info = read_dataset(store, dataset)
    recipe = recipe_of(info)
    stored = read_group(store, dataset, *find_group(store, dataset, caption_id))
    pipeline = load_pipeline(recipe, device or None)
    batch = int(stored.info.get("batch_images", recipe.batch_images))
    compiled = None
    if "compiled" in stored.info:
        compiled = compile_networks(pipeline, recipe, store, say, batch=batch)
    generator = Generator(recipe, seed=info.job_seed, pipeline=pipeline, compiled=compiled, batch_limit=batch)
    made = next(generator.generate([Caption(caption_id, stored.caption)]))
    exception = ""
    if made.info.get("compiled") != stored.info.get("compiled"):
        exception = (
            f"it was made by the compiled networks {stored.info['compiled']}, of another kind of card, "
            f"torch or stablerep; those of this machine are {made.info.get('compiled')}"
        )
    elif "batch_images" in stored.info:
        exception = f"it was made in a smaller batch, of {stored.info['batch_images']} images"
    elif recipe.layout == "packed" and generator.pipeline.device.type != "cpu":
        exception = "its recipe has no slots: on a GPU its place in the batch mattered"
    return Remade(stored, made, exception)
