"""Options of `train` that need no training: what --show prints, weights of datasets, what is missing."""

import pytest
import yaml
from typer.testing import CliRunner

from stablerep.cli import app
from stablerep.cli.models import _weighted
from stablerep.errors import InvalidInput
from stablerep.runs.config import parse_train_config


def test_show_prints_a_configuration_that_is_a_preset(tmp_path):
    options = ["--preset", "paper_vit_b16_cc12m_1x", "--set", "method=mae", "--set", "optimizer.lr=1e-3"]
    done = CliRunner().invoke(app, ["train", *options, "--show"])
    assert done.exit_code == 0, done.output
    assert "mae with vit_base_patch16_224 at 224 px; 109,000 steps of 8,256 views" in done.output
    config = parse_train_config(yaml.safe_load(done.output))
    assert (config.method.name, config.optimizer.lr) == ("mae", 0.001)
    (tmp_path / "mine.yaml").write_text(done.output)
    again = CliRunner().invoke(app, ["train", "--preset", str(tmp_path / "mine.yaml"), "--show"])
    assert again.output == done.output


def test_datasets_may_have_weights():
    assert _weighted(["file:///a/datasets/x", "y"]) == (["file:///a/datasets/x", "y"], [])
    assert _weighted(["file:///a/datasets/x=0.7", "y=.3"]) == (["file:///a/datasets/x", "y"], [0.7, 0.3])
    with pytest.raises(InvalidInput, match="or none"):
        _weighted(["x=0.7", "y"])
    with pytest.raises(InvalidInput, match="no weight"):
        _weighted(["x=most"])


@pytest.mark.parametrize(("options", "named"), [([], "--dataset"), (["--dataset", "x"], "--run")])
def test_what_is_missing_is_named(options, named):
    done = CliRunner().invoke(app, ["train", *options])
    assert isinstance(done.exception, InvalidInput)
    assert str(done.exception) == f"{named}: is missing"
