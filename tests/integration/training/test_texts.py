"""Runs that know texts are measured by them, and those that know none are refused."""

import json
import threading

import pytest
import torch
from typer.testing import CliRunner

from stablerep.cli import app
from stablerep.errors import InvalidInput
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
