"""What `stablerep export` writes beside the weights: a model card that says what was measured, embeddings."""

import threading

import numpy as np
import pyarrow.parquet as parquet
import pytest
import timm
import torch
import yaml
from typer.testing import CliRunner

from stablerep.cli import app
from stablerep.data import GroupDataset
from stablerep.evaluation.embeddings import write_embeddings
from stablerep.models.load import load_encoder
from stablerep.training.distributed import Ranks
from stablerep.training.loop import train
from tests.integration.training.test_training import configuration
from tests.training import CAPTIONS, IMAGES, describe, write_stripes


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    url = (tmp_path_factory.mktemp("export") / "store").as_uri()
    write_stripes(url)
    describe(url)
    train(configuration(url, "first", steps=6), Ranks(0, 1, torch.device("cpu")), threading.Event())
    return f"{url}/runs/first"


def test_the_card_says_what_was_trained_and_measured(run, tmp_path):
    runner = CliRunner()
    probed = runner.invoke(app, ["probe", run, "--data", "digits", "--draws", "2"])
    assert probed.exit_code == 0, probed.output
    options = ["--out", str(tmp_path / "out"), "--name", "stripes", "--license", "cc-by-4.0"]
    done = runner.invoke(app, ["export", run, *options])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "out/README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header["library_name"] == "timm"
    assert header["license"] == "cc-by-4.0"
    assert "hf-hub:USER/stripes" in text
    assert "Datasets: stripes; 24 groups" in text
    assert "| digits | frozen | linear |" in text
    assert "| `method.temperature` | 0.1 |" in text
    assert run not in text, "no folder of this machine"
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert model.num_features == 16


def test_embeddings_are_the_encoders_own(run, tmp_path):
    dataset = GroupDataset(run.replace("runs/first", "datasets/stripes"))
    encoder = load_encoder(run)
    assert write_embeddings(encoder, dataset, tmp_path / "e.parquet") == CAPTIONS * IMAGES
    table = parquet.read_table(tmp_path / "e.parquet")
    assert table.column_names == ["id", "caption", "vector", "x", "y"]
    assert table["id"][4].as_py() == "1.01"
    assert table["caption"][4].as_py() == dataset[1].caption
    pixels = torch.from_numpy(np.asarray(dataset[1].images[1]).copy()).permute(2, 0, 1)[None].float() / 255
    size = round(encoder.image_size / encoder.crop_ratio)
    larger = torch.nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    inset = (size - encoder.image_size) // 2
    crop = larger[:, :, inset : inset + encoder.image_size, inset : inset + encoder.image_size]
    mean, std = (torch.tensor(v)[:, None, None] for v in (encoder.mean, encoder.std))
    with torch.inference_mode():
        expected = encoder.model((crop - mean) / std)[0]
    np.testing.assert_allclose(table["vector"][4].as_py(), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_the_plane_is_that_of_scikit_learn(run, tmp_path):
    from sklearn.decomposition import PCA

    dataset = GroupDataset(run.replace("runs/first", "datasets/stripes"))
    write_embeddings(load_encoder(run), dataset, tmp_path / "e.parquet")
    table = parquet.read_table(tmp_path / "e.parquet")
    expected = PCA(2).fit_transform(np.array(table["vector"].to_pylist(), np.float64))
    found = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
    for axis in range(2):
        sign = np.sign(expected[0, axis] * found[0, axis])
        np.testing.assert_allclose(found[:, axis], sign * expected[:, axis], atol=1e-3)
