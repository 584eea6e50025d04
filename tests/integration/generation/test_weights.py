"""Models that try to run code: booby-trapped pickles and pipelines with code of their own are never run."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stablerep.config.recipe import load_preset
from stablerep.errors import InvalidInput
from stablerep.generation.pipeline import load_pipeline
from tests.pipelines import make_random_pipeline

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
BIN = {
    "unet": "diffusion_pytorch_model.bin",
    "vae": "diffusion_pytorch_model.bin",
    "text_encoder": "pytorch_model.bin",
}


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.sprung}'",)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_pipeline(tmp_path_factory.mktemp("whole") / "pipeline")


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """A pipeline of the test's own, to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "pipeline"))


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """The file that code of the model would make."""
    return tmp_path / "sprung"


def refusal(model: Path) -> str:
    """Why the model is not loaded."""
    with pytest.raises(InvalidInput) as caught:
        load_pipeline(load_preset("tiny", {"model": str(model)}).recipe, "cpu")
    assert caught.value.field == "model"
    return str(caught.value)


def edit_index(model: Path, **changes: Any) -> None:
    path = model / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_trap_is_a_real_one(sprung: Path, tmp_path: Path) -> None:
    torch.save({"weight": Trap(sprung)}, tmp_path / "weights.bin")
    torch.load(tmp_path / "weights.bin", weights_only=False)
    assert sprung.exists()


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_in_a_pickle_are_refused_and_not_run(model: Path, sprung: Path, part: str) -> None:
    (model / part / WEIGHTS[part]).unlink()
    torch.save({"weight": Trap(sprung)}, model / part / BIN[part])
    assert "safetensors" in refusal(model)
    assert not sprung.exists()


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_pickle_that_is_called_safetensors_is_refused_and_not_run(
    model: Path, sprung: Path, part: str
) -> None:
    torch.save({"weight": Trap(sprung)}, model / part / WEIGHTS[part])
    refusal(model)
    assert not sprung.exists()


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_pickle_in_the_list_of_weight_files_is_refused_and_not_run(
    model: Path, sprung: Path, part: str
) -> None:
    (model / part / WEIGHTS[part]).unlink()
    torch.save({"weight": Trap(sprung)}, model / part / "more.bin")
    files = {"metadata": {"total_size": 1}, "weight_map": {"weight": "more.bin"}}
    (model / part / f"{WEIGHTS[part]}.index.json").write_text(json.dumps(files))
    refusal(model)
    assert not sprung.exists()


def own_pipeline(model: Path) -> Path:
    edit_index(model, _class_name=["mine", "Mine"])
    return model / "mine.py"


def own_part(model: Path) -> Path:
    edit_index(model, unet=["mine", "Mine"])
    return model / "unet" / "mine.py"


def part_named_like_the_library(model: Path) -> Path:
    return model / "unet" / "diffusers.py"


def pipeline_of_no_name(model: Path) -> Path:
    return model / "None.py"


@pytest.mark.parametrize("place", [own_pipeline, own_part, part_named_like_the_library, pipeline_of_no_name])
def test_code_beside_the_weights_is_refused_and_not_run(
    model: Path, sprung: Path, place: Callable[[Path], Path]
) -> None:
    code = f"import pathlib\npathlib.Path({str(sprung)!r}).touch()\nclass Mine: pass\n"
    place(model).write_text(code)
    assert "code of its own" in refusal(model)
    assert not sprung.exists()


@pytest.mark.parametrize("part", [["subprocess", "Popen"], ["this", "s"], [["x"], "y"], [7, "y"]])
def test_a_module_that_the_model_names_is_not_imported(model: Path, part: list[Any]) -> None:
    edit_index(model, unet=part)
    assert "unet" in refusal(model)


def test_an_untouched_model_loads(model: Path) -> None:
    assert load_pipeline(load_preset("tiny", {"model": str(model)}).recipe, "cpu").model == str(model)
