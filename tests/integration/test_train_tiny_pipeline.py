"""`scripts/tiny_pipeline/train_pipeline.py` makes a loadable diffusers pipeline from captioned images."""

import importlib.util
import io
import json
import runpy
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from PIL import Image
from safetensors import safe_open

from tests.paths import ROOT

SCRIPTS = ROOT / "scripts" / "tiny_pipeline"
ASSETS = ROOT / "stablerep" / "assets"
COUNT = 64


def script(name: str) -> ModuleType:
    """A module of the scripts' folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"tiny_pipeline_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def photographs() -> list[tuple[Image.Image, str]]:
    """64 real photographs, 32x32, each with a caption of its class."""
    data = np.load(ASSETS / "fashion_photographs.npz")
    names = data["class_names"]
    padded = np.pad(data["train_images"][:COUNT], ((0, 0), (2, 2), (2, 2)))
    labels = data["train_labels"][:COUNT]
    return [(Image.fromarray(i), f"a {names[k]} of cloth") for i, k in zip(padded, labels, strict=True)]


@pytest.fixture(scope="module")
def image_folder(
    photographs: list[tuple[Image.Image, str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The photographs as PNG files listed in metadata.jsonl."""
    folder = tmp_path_factory.mktemp("images")
    with (folder / "metadata.jsonl").open("w") as lines:
        for number, (image, caption) in enumerate(photographs):
            image.save(folder / f"{number}.png")
            lines.write(json.dumps({"file_name": f"{number}.png", "text": caption}) + "\n")
    return folder


@pytest.fixture(scope="module")
def tar_folder(photographs: list[tuple[Image.Image, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs as two WebDataset tars, captions in .txt in one and in .json in the other."""
    folder = tmp_path_factory.mktemp("tars")
    for shard in range(2):
        with tarfile.open(folder / f"{shard:06d}.tar", "w") as tar:
            for number, (image, caption) in enumerate(photographs[shard * 32 : shard * 32 + 32]):
                png = io.BytesIO()
                image.save(png, "PNG")
                text = ("txt", caption) if shard == 0 else ("json", json.dumps({"caption": caption}))
                for ending, data in (("png", png.getvalue()), (text[0], text[1].encode())):
                    member = tarfile.TarInfo(f"{shard}-{number}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return folder


@pytest.fixture(scope="module")
def trained(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pipeline after eight steps of each stage."""
    base = tmp_path_factory.mktemp("trained")
    command = [sys.executable, str(SCRIPTS / "train_pipeline.py"), str(image_folder)]
    command += ["--out", str(base / "pipeline"), "--work", str(base / "work")]
    command += ["--vae-steps", "8", "--unet-steps", "8", "--drop-words", str(ASSETS / "fashion_nouns.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return base / "pipeline"


def test_tars_and_image_folder_are_read_alike(image_folder: Path, tar_folder: Path) -> None:
    load = script("captioned_images").load_captioned_images
    from_files, from_tars = load(image_folder, 32), load(tar_folder, 32)
    assert from_files.captions == from_tars.captions
    assert from_files.images.shape == (COUNT, 32, 32, 3)
    assert np.array_equal(from_files.images, from_tars.images)


def test_images_of_other_sizes_are_cropped_to_the_middle(tmp_path: Path) -> None:
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "wide.png", "text": "a  white box"}))
    data = script("captioned_images").load_captioned_images(tmp_path, 40)
    assert data.captions == ["a white box"]
    assert data.images.min() == 255


def test_a_folder_without_pairs_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=str(tmp_path)):
        script("captioned_images").load_captioned_images(tmp_path, 32)


def test_trained_pipeline_loads_with_no_precision_given_and_generates(trained: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(trained)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    random = torch.Generator().manual_seed(0)
    prompts = ["a coat of cloth", "a bag of cloth"]
    images = pipeline(prompts, num_inference_steps=2, generator=random, output_type="np").images
    assert images.shape == (2, 32, 32, 3)
    assert np.isfinite(images).all()
    assert not np.array_equal(images[0], images[1])


def test_weights_are_half_precision_safetensors(trained: Path) -> None:
    assert not list(trained.rglob("*.bin"))
    for part in ("unet", "vae", "text_encoder"):
        (file,) = (trained / part).glob("*.safetensors")
        with safe_open(file, framework="pt") as weights:
            kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        assert kinds == {"F16"}, part


def test_a_finished_stage_is_not_trained_again(
    image_folder: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    again, work = trained.parent / "again", trained.parent / "work"
    arguments = ["train_pipeline.py", str(image_folder), "--out", str(again), "--work", str(work)]
    arguments += ["--vae-steps", "8", "--unet-steps", "8"]
    arguments += ["--drop-words", str(ASSETS / "fashion_nouns.json")]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    runpy.run_path(str(SCRIPTS / "train_pipeline.py"), run_name="__main__")
    assert "loss" not in capsys.readouterr().out
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (trained / weights).read_bytes() == (again / weights).read_bytes()
