"""Model folders of the store copied before a worker starts: whole, once, never outside of the folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.generator.fetch_models import fetch_models
from stablerep.errors import NotFound
from stablerep.storage import Store, open_store
from tests.paths import ROOT

PIPELINE = ROOT / "stablerep/assets/fashion_pipeline"


@pytest.fixture
def store(store_url: str) -> Store:
    store = open_store(store_url)
    for path in PIPELINE.rglob("*"):
        if path.is_file():
            store.put(f"models/fashion/{path.relative_to(PIPELINE)}", path)
    return store


def test_a_folder_is_copied_and_diffusers_loads_it(store: Store, tmp_path: Path) -> None:
    count, size = fetch_models(store, "models", tmp_path / "models")
    files = {
        path.relative_to(tmp_path / "models/fashion"): path.read_bytes()
        for path in (tmp_path / "models").rglob("*")
        if path.is_file()
    }
    assert files == {p.relative_to(PIPELINE): p.read_bytes() for p in PIPELINE.rglob("*") if p.is_file()}
    assert (count, size) == (len(files), sum(map(len, files.values())))
    from diffusers import DiffusionPipeline

    loaded = DiffusionPipeline.from_pretrained(str(tmp_path / "models/fashion"), local_files_only=True)
    assert loaded.unet.config.sample_size


def test_what_is_there_is_kept_and_what_is_torn_is_fetched_again(store: Store, tmp_path: Path) -> None:
    fetch_models(store, "models/", tmp_path)
    kept, torn = tmp_path / "fashion/model_index.json", tmp_path / "fashion/unet/config.json"
    before = kept.stat().st_mtime_ns
    torn.write_bytes(b"{")
    fetch_models(store, "models/", tmp_path)
    assert kept.stat().st_mtime_ns == before
    assert torn.read_bytes() == (PIPELINE / "unet/config.json").read_bytes()
    assert not list(tmp_path.rglob(".fetching-*"))


def test_a_prefix_without_models_is_an_error_that_says_so(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing below weights/"):
        fetch_models(store, "weights", tmp_path)
    command = [sys.executable, "-m", "services.generator.fetch_models", "weights/", str(tmp_path)]
    environment = {**os.environ, "STABLEREP_STORE_URL": store.url}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "upload the model's folder there" in done.stderr
