"""Runs that know texts are measured by them, and those that know none are refused."""

import json
import threading

import pytest
import torch
from typer.testing import CliRunner

from stablerep.cli import app
from stablerep.errors import AlreadyExists, InvalidInput
from stablerep.models.tokenizer import learn_tokenizer, load_tokenizer
from stablerep.training.distributed import Ranks
from stablerep.training.image_text import load_towers
from stablerep.training.loop import train
from tests.integration.training.test_methods import settings
from tests.integration.training.test_training import configuration
from tests.training import CAPTIONS, write_stripes

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    url = (tmp_path_factory.mktemp("texts") / "store").as_uri()
    write_stripes(url)
    return url


def test_a_clip_run_finds_its_captions(url):
    options = settings("clip", 150) | {
        "checkpoint_every": 150,
        "augment": {"crop_scale": [0.8, 1.0], "jitter_probability": 0.0, "grayscale": 0.0, "blur": 0.0},
    }
    train(configuration(url, "clip", **options), ALONE, threading.Event())
    data = f"{url}/datasets/stripes"
    done = CliRunner().invoke(
        app, ["probe", f"{url}/runs/clip", "--protocol", "retrieval", "--data", data, "--json"]
    )
    assert done.exit_code == 0, done.output
    (record,) = [json.loads(line) for line in done.stdout.splitlines()]
    chance = 1 / CAPTIONS
    assert record["scores"]["image_to_text@1"]["value"] > 4 * chance
    assert record["settings"] == {"captions": CAPTIONS}
    zero = CliRunner().invoke(
        app, ["probe", f"{url}/runs/clip", "--protocol", "zeroshot", "--data", "digits"]
    )
    assert zero.exit_code == 0, zero.output
    assert "digits, zeroshot" in zero.output


def test_a_run_without_texts_is_refused(url):
    train(configuration(url, "plain", steps=2), ALONE, threading.Event())
    with pytest.raises(InvalidInput, match="knows no texts"):
        load_towers(f"{url}/runs/plain")


def test_a_run_keeps_its_own_tokenizer(url, tmp_path):
    """Its towers are measured where neither the file nor the store is where it was."""
    own, store = tmp_path / "own.json", tmp_path / "store"
    done = CliRunner().invoke(
        app, ["tokenizer", f"{url}/datasets/stripes", "--size", "300", "--out", str(own)]
    )
    assert done.exit_code == 0, done.output
    assert f"learnt from {CAPTIONS} captions" in done.output
    write_stripes(store.as_uri())
    options = settings("clip", 4)
    options["method"] = {**options["method"], "text": {**options["method"]["text"], "tokenizer": str(own)}}
    config = configuration(store.as_uri(), "own", **options | {"checkpoint_every": 2})
    train(config, ALONE, threading.Event())
    kept = store / "runs" / "own" / "tokenizer.json"
    assert kept.read_bytes() == own.read_bytes()

    own.unlink()
    longer = config.model_copy(update={"steps": 6})
    result = train(longer, ALONE, threading.Event())
    assert result is not None
    assert result["steps"] == 6
    moved = tmp_path / "moved"
    size = load_tokenizer(str(kept)).size
    store.rename(moved)
    towers, step = load_towers((moved / "runs" / "own").as_uri())
    assert step == 6
    assert towers.tower.tower.token_embedding.num_embeddings == size < 49_408
    assert towers.texts(["colour 1", "colour 2"]).shape == (2, towers.tower.projection.out_features)
    moved.rename(store)

    own.write_bytes(learn_tokenizer(["something else"], 270))
    with pytest.raises(AlreadyExists, match="another tokenizer"):
        train(longer.model_copy(update={"steps": 8}), ALONE, threading.Event())
    plain = longer.model_copy(update={"steps": 8, "method": config.method.with_tokenizer("")})
    with pytest.raises(AlreadyExists, match=r"method\.text\.tokenizer"):
        train(plain, ALONE, threading.Event())
