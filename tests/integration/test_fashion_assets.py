"""The shipped pipeline and captions: their size, vocabulary and balance, with and without nouns."""

import json
from importlib.resources import files
from pathlib import Path

from transformers import CLIPTokenizer

ASSETS = Path(str(files("stablerep"))) / "assets"
CAPTIONS = (ASSETS / "fashion_captions.txt").read_text().splitlines()
NOUNS = json.loads((ASSETS / "fashion_nouns.json").read_text())


def test_the_pipeline_is_at_most_8_megabytes() -> None:
    assert sum(f.stat().st_size for f in (ASSETS / "fashion_pipeline").rglob("*") if f.is_file()) <= 8_000_000


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
