"""The shipped pipeline and captions: their size, vocabulary and balance, with and without nouns."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from stablerep.errors import InvalidInput
from stablerep.evaluation.datasets.photographs import load_photographs
from stablerep.generation import builtin_revision, load_pipeline, load_recipe
from stablerep.generation.pipeline import BUILTIN_FOLDERS

ASSETS = Path(str(files("stablerep"))) / "assets"
CAPTIONS = (ASSETS / "fashion_captions.txt").read_text().splitlines()
NOUNS = json.loads((ASSETS / "fashion_nouns.json").read_text())


def test_the_pipeline_is_at_most_8_megabytes() -> None:
    assert sum(f.stat().st_size for f in (ASSETS / "fashion_pipeline").rglob("*") if f.is_file()) <= 8_000_000


def test_the_preset_names_the_weights_that_are_shipped() -> None:
    recipe = load_recipe("tiny")
    assert recipe.revision == builtin_revision(recipe.model)
    assert load_pipeline(recipe, "cpu").revision == recipe.revision


def test_a_recipe_of_other_weights_is_refused() -> None:
    recipe = load_recipe("tiny", {"revision": "0123456789abcdef"})
    with pytest.raises(InvalidInput, match=f"0123456789abcdef.*{load_recipe('tiny').revision}") as caught:
        load_pipeline(recipe, "cpu")
    assert caught.value.field == "revision"
    assert load_pipeline(load_recipe("tiny", {"revision": ""}), "cpu").revision == ""


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("unet/diffusion_pytorch_model.safetensors", True),
        ("scheduler/scheduler_config.json", True),
        ("measurements.json", False),
        ("README.md", False),
    ],
)
def test_the_revision_is_of_what_makes_the_images(
    file: str, changes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ASSETS / "fashion_pipeline", tmp_path / "copy")
    name = f"builtin:{file}"  # another each time: revisions are remembered
    monkeypatch.setitem(BUILTIN_FOLDERS, f"{name}-before", str(tmp_path / "copy"))
    monkeypatch.setitem(BUILTIN_FOLDERS, f"{name}-after", str(tmp_path / "copy"))
    assert builtin_revision(f"{name}-before") == builtin_revision("builtin:fashion")
    with (tmp_path / "copy" / file).open("ab") as written:
        written.write(b"\n")
    assert (builtin_revision(f"{name}-after") != builtin_revision("builtin:fashion")) is changes


def test_every_word_of_the_captions_is_one_token_and_no_caption_is_cut() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(ASSETS / "fashion_pipeline" / "tokenizer")
    words = {word for caption in CAPTIONS for word in caption.split()} - {"t-shirt"}  # split at its hyphen
    assert [word for word in sorted(words) if len(tokenizer.tokenize(word)) != 1] == []
    assert max(len(tokenizer(caption).input_ids) for caption in CAPTIONS) <= tokenizer.model_max_length


def test_there_are_enough_distinct_captions() -> None:
    assert len(set(CAPTIONS)) == len(CAPTIONS) >= 900


def test_the_first_thousand_captions_name_every_class_equally_often() -> None:
    nouns = (
        "t-shirt",
        "trousers",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
    counts = [sum(f" {noun} " in f" {caption} " for caption in CAPTIONS[:1000]) for noun in nouns]
    assert counts == [100] * 10


def test_the_captions_without_nouns_are_the_captions_without_their_nouns() -> None:
    without = (ASSETS / "fashion_captions_no_noun.txt").read_text().splitlines()
    assert without == [" ".join(w for w in caption.split() if w not in NOUNS) for caption in CAPTIONS]


def test_the_long_list_begins_with_the_short_one_and_has_no_caption_twice() -> None:
    longer = (ASSETS / "fashion_captions_8000.txt").read_text(encoding="utf-8").splitlines()
    assert longer[: len(CAPTIONS)] == CAPTIONS
    assert len(set(longer)) == len(longer) == 8000
    assert {word for line in longer for word in line.split()} == {
        w for line in CAPTIONS for w in line.split()
    }


def test_every_shipped_photograph_has_a_caption_that_names_its_class() -> None:
    photographs = load_photographs("fashion")
    captions = (ASSETS / "fashion_photograph_captions.txt").read_text(encoding="utf-8").splitlines()
    names = [photographs.class_names[label] for label in photographs.train_labels]
    assert len(captions) == 5000
    assert all(f" {name} " in f" {caption} " for name, caption in zip(names, captions, strict=True))
