"""Labelled photographs in folders: split, squares, and what is wrong with a folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stablerep.errors import InvalidInput
from stablerep.evaluation.datasets.folder import load_folder
from stablerep.evaluation.features import prepare
from stablerep.evaluation.records import digest_of
from stablerep.models.frozen import FrozenEncoder


def write(folder: Path, classes: dict[str, int], size: tuple[int, int] = (40, 24)) -> Path:
    for number, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", size, (40 * number + k, 0, 0)).save(folder / name / f"{k}.png")
    return folder


def test_class_folders_are_split_in_the_same_way_always(tmp_path):
    folder = write(tmp_path / "own", {"bag": 10, "boot": 5})
    first, second = load_folder(folder, size=16), load_folder(folder, size=16)
    assert first.class_names == ("bag", "boot")
    assert np.bincount(first.train_labels).tolist() == [8, 4]
    assert np.bincount(first.test_labels).tolist() == [2, 1]
    assert np.array_equal(first.train_images, second.train_images)
    shades = np.concatenate([first.train_images, first.test_images])[:, 0, 0, 0]
    assert sorted(shades.tolist()) == [*range(10), *range(40, 45)]


@pytest.mark.parametrize("test", ["test", "val"])
def test_parts_of_their_own_are_kept(tmp_path, test):
    write(tmp_path / "own/train", {"bag": 3, "boot": 4})
    write(tmp_path / "own" / test, {"bag": 1, "boot": 2})
    found = load_folder(tmp_path / "own", size=16)
    assert (len(found.train_labels), found.test_labels.tolist()) == (7, [0, 1, 1])


def test_an_encoder_sees_what_it_would_see_of_the_whole_photograph(tmp_path):
    random = np.random.default_rng(0)
    folder = tmp_path / "own"
    pixels = random.integers(0, 255, (48, 72, 3)).astype(np.uint8)
    for name in ("bag", "boot"):
        (folder / name).mkdir(parents=True)
        for k in range(2):
            Image.fromarray(pixels).save(folder / name / f"{k}.png")
    encoder = FrozenEncoder(torch.nn.Identity(), 28, (0, 0, 0), (1, 1, 1), 28 / 32)
    squares = prepare(load_folder(folder, size=32).train_images[:1], encoder)
    whole = prepare(pixels[None], encoder)
    # Rounding to whole pixels of the crop and to uint8 are all that differs.
    assert float((squares - whole).abs().mean()) < 0.02


@pytest.mark.parametrize(
    ("classes", "named"), [({}, "no two folders"), ({"bag": 3}, "no two folders"), ({"a": 1, "b": 3}, "one")]
)
def test_what_cannot_be_probed_says_why(tmp_path, classes, named):
    (tmp_path / "own").mkdir()
    with pytest.raises(InvalidInput, match=named):
        load_folder(write(tmp_path / "own", classes))


def test_photographs_are_the_same_at_any_size(tmp_path):
    folder = write(tmp_path / "own", {"bag": 3, "boot": 4})
    digests = {digest_of(load_folder(folder, size=size)) for size in (16, 32)}
    assert len(digests) == 1
    Image.new("RGB", (40, 24), (255, 0, 0)).save(folder / "bag" / "0.png")
    assert digest_of(load_folder(folder, size=16)) not in digests


def test_other_classes_in_the_test_part_are_refused(tmp_path):
    write(tmp_path / "own/train", {"bag": 3, "boot": 4})
    write(tmp_path / "own/test", {"bag": 1, "hat": 2})
    with pytest.raises(InvalidInput, match="boot, hat"):
        load_folder(tmp_path / "own")


def test_a_damaged_photograph_is_named(tmp_path):
    folder = write(tmp_path / "own", {"bag": 3, "boot": 4})
    (folder / "bag" / "1.png").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match=r"bag/1\.png"):
        load_folder(folder)
