"""A group has the same places in every batch, so its bytes do not depend on what else a batch holds.

On a GPU a convolution may round differently from place to place. On the CPU it does not, so the pipeline of
these tests is one whose output depends on the place for real: its UNet adds a little to every row, by number.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from stablerep.captions import Caption
from stablerep.cli import app
from stablerep.config.recipe import Recipe, load_recipe
from stablerep.errors import InvalidInput
from stablerep.generation import Generator, load_pipeline
from stablerep.generation.pipeline import LoadedPipeline
from stablerep.generation.remake import remake_group
from stablerep.shards import DatasetInfo, build_tar, commit_shard, write_dataset
from stablerep.storage import open_store

CAPTIONS = [Caption(id, f"black plain boot number {id}") for id in range(24)]


def recipe(images: int = 2, batch: int = 8, layout: str = "slots") -> Recipe:
    fields = {"steps": "2", "images_per_caption": str(images), "batch_images": str(batch), "layout": layout}
    return load_recipe("tiny", fields)


@pytest.fixture
def placed() -> Iterator[LoadedPipeline]:
    """The shipped pipeline, whose UNet adds to each row what belongs to its place in the batch."""
    loaded = load_pipeline(recipe())

    def add_place(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        rows = len(output) // 2  # guidance: the rows of the empty prompt, then those of the captions
        return output + 0.05 * torch.arange(len(output)).remainder(rows).view(-1, 1, 1, 1)

    assert loaded.denoiser is not None
    handle = loaded.denoiser.register_forward_hook(add_place)
    yield loaded
    handle.remove()


def made(loaded: LoadedPipeline, captions: list[Caption], recipe: Recipe) -> dict[int, tuple[bytes, ...]]:
    groups = Generator(recipe, seed=3, pipeline=loaded).generate(captions)
    return {group.caption_id: group.encoded for group in groups}


@pytest.mark.parametrize(("images", "batch"), [(2, 8), (4, 4), (1, 8), (6, 3), (4, 2)])
def test_a_group_has_the_same_bytes_alone_and_among_any_others(
    placed: LoadedPipeline, images: int, batch: int
) -> None:
    wanted = made(placed, CAPTIONS, recipe(images, batch))
    assert all(len(set(encoded)) == images for encoded in wanted.values())
    chance = random.Random(images * 100 + batch)
    for some in ([CAPTIONS[5]], CAPTIONS[3:17], sorted(chance.sample(CAPTIONS, 9)), CAPTIONS[::3]):
        found = made(placed, list(some), recipe(images, batch))
        assert found == {caption.id: wanted[caption.id] for caption in some}


def test_it_is_the_slots_that_do_it(placed: LoadedPipeline) -> None:
    """In the packed layout the very same pipeline gives other bytes."""
    packed = recipe(layout="packed")
    assert made(placed, CAPTIONS[:4], packed) == made(placed, CAPTIONS[:4], recipe())
    assert made(placed, [CAPTIONS[1]], packed) != made(placed, [CAPTIONS[1]], recipe())


def test_a_caption_that_fails_leaves_its_place_empty(
    placed: LoadedPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its embedding, or in the middle of the batch, which is generated again in halves."""
    wanted = made(placed, CAPTIONS, recipe())
    for method in ("embed", "sample"):
        generator = Generator(recipe(), seed=3, pipeline=placed)
        sampler = generator._sampler
        original = getattr(sampler, method)
        bad = sampler.embed(CAPTIONS[9].text)

        def fail(first: Any, *rest: Any, original: Any = original, bad: Any = bad) -> Any:
            texts = [first] if isinstance(first, str) else [e.states for e in first]
            if any(isinstance(t, str) and t == CAPTIONS[9].text for t in texts) or any(
                torch.is_tensor(t) and torch.equal(t, bad.states) for t in texts
            ):
                raise ValueError("not this one")
            return original(first, *rest)

        monkeypatch.setattr(sampler, method, fail)
        groups = {group.caption_id: group for group in generator.generate(CAPTIONS)}
        assert "not this one" in groups[9].info["error"]
        assert {id: g.encoded for id, g in groups.items() if id != 9} == {
            i: e for i, e in wanted.items() if i != 9
        }


@pytest.mark.parametrize(
    ("images", "batch", "near"), [(3, 8, "6 and 9"), (10, 16, "10 and 20"), (6, 4, "3 and 6")]
)
def test_a_recipe_that_does_not_fit_is_refused_with_the_nearest_that_do(
    images: int, batch: int, near: str
) -> None:
    with pytest.raises(InvalidInput, match=near) as caught:
        recipe(images, batch)
    assert caught.value.field == "batch_images"
    assert recipe(images, batch, layout="packed").layout == "packed"


def test_presets_have_slots_and_old_recipes_stay_what_they_were() -> None:
    for name in ("sd15", "tiny"):
        assert load_recipe(name).layout == "slots"
    old = {key: value for key, value in load_recipe("tiny").model_dump().items() if key != "layout"}
    assert Recipe.model_validate(old).layout == "packed"
    # What datasets of the tiny preset say that were made before there were slots.
    assert (
        Recipe.model_validate(old).digest
        == "45602136f39876ab947089212bb248887a4eb8b84fda231ea48d81246d61ce94"
    )


def test_preview_makes_a_stored_group_again_and_compares_its_bytes(tmp_path: Path) -> None:
    store, chosen = open_store(tmp_path / "store"), recipe()
    info = {"name": "shoes", "recipe": chosen.model_dump(), "recipe_digest": chosen.digest, "job_seed": 3}
    more = {"captions_per_shard": 5, "source": {}, "create_time": "2026-01-01T00:00:00Z"}
    write_dataset(store, DatasetInfo.model_validate(info | more))
    groups = list(Generator(chosen, seed=3).generate(CAPTIONS[1:15:2]))
    for shard in range(3):
        commit_shard(store, "shoes", shard, build_tar(groups[shard * 3 : shard * 3 + 3]))
    for caption_id in (1, 7, 13):
        found = remake_group(store, "shoes", caption_id)
        assert found.equal == [True, True]
        assert found.exception == ""
    url, out = f"{store.url}/datasets/shoes", str(tmp_path / "out")
    shown = CliRunner().invoke(app, ["preview", "--dataset", url, "--caption-id", "7", "--out", out])
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("equal") == 2
    assert (tmp_path / "out" / "index.html").exists()
    write_dataset(store, DatasetInfo.model_validate(info | more | {"job_seed": 4}))
    shown = CliRunner().invoke(app, ["preview", "--dataset", url, "--caption-id", "7", "--out", out])
    assert shown.exit_code == 1
    assert shown.output.count("DIFFERENT") == 2
    missing = CliRunner().invoke(app, ["preview", "--dataset", url, "--caption-id", "2", "--out", out])
    assert "no finished shard" in str(missing.exception)
