"""The photographs that probes are judged by: whole, balanced, and what their checksum says."""

import gzip
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from stablerep.errors import InvalidInput, TornObject
from stablerep.evaluation.datasets.photographs import (
    FASHION_SHA256,
    Photographs,
    load_photographs,
    read_photographs,
)

ASSETS = files("stablerep") / "assets"


@pytest.fixture(scope="module")
def fashion() -> Photographs:
    return load_photographs("fashion")


def test_fashion_holds_500_training_and_1000_test_photographs_of_each_class(fashion: Photographs) -> None:
    assert fashion.train_images.shape == (5000, 28, 28)
    assert fashion.test_images.shape == (10000, 28, 28)
    assert fashion.train_images.dtype == fashion.test_images.dtype == np.uint8
    assert np.bincount(fashion.train_labels).tolist() == [500] * 10
    assert np.bincount(fashion.test_labels).tolist() == [1000] * 10
    assert fashion.class_names[1] == "trousers"
    assert len(fashion.class_names) == 10


def test_no_test_photograph_is_among_the_training_ones(fashion: Photographs) -> None:
    train = {image.tobytes() for image in fashion.train_images}
    # The published set itself holds a few near-duplicates; exact ones between the two parts are not expected.
    assert sum(image.tobytes() in train for image in fashion.test_images) == 0


def test_checksum_in_the_readme_is_the_one_that_is_checked() -> None:
    assert FASHION_SHA256 in (ASSETS / "README.md").read_text()


def test_a_damaged_file_is_refused() -> None:
    data = bytearray((ASSETS / "fashion_photographs.npz").read_bytes())
    data[len(data) // 2] ^= 1
    with pytest.raises(TornObject, match="SHA-256"):
        read_photographs("fashion", bytes(data), sha256=FASHION_SHA256)


def test_subset_takes_each_class_in_equal_parts(fashion: Photographs) -> None:
    small = fashion.subset(train=100, test=50)
    assert np.bincount(small.train_labels).tolist() == [10] * 10
    assert np.bincount(small.test_labels).tolist() == [5] * 10
    first = np.flatnonzero(small.train_labels == 3)[0]
    original = np.flatnonzero(fashion.train_labels == 3)[0]
    np.testing.assert_array_equal(small.train_images[first], fashion.train_images[original])


@pytest.mark.parametrize("train", [0, 15, 6000])
def test_subset_that_cannot_be_balanced_is_refused(fashion: Photographs, train: int) -> None:
    with pytest.raises(InvalidInput, match="equal parts"):
        fashion.subset(train=train, test=50)


def test_margin_surrounds_the_photograph_and_is_gone_after_framing(fashion: Photographs) -> None:
    framed = fashion.subset(train=10, test=10).framed()
    assert framed.train_images.shape == (10, 32, 32)
    assert framed.train_images[:, :2].max() == framed.train_images[:, :, -2:].max() == 0
    np.testing.assert_array_equal(framed.framed().train_images, framed.train_images)
    original = fashion.train_images[np.flatnonzero(fashion.train_labels == framed.train_labels[0])[0]]
    np.testing.assert_array_equal(framed.train_images[0, 2:-2, 2:-2], original)


def test_digits_are_split_without_overlap_and_use_the_whole_range() -> None:
    digits = load_photographs("digits")
    assert len(digits.train_images) + len(digits.test_images) == 1797
    assert digits.train_images.max() == 255
    assert np.bincount(digits.test_labels).min() > 50


def test_full_fashion_is_read_from_idx_files_where_there_is_no_network(tmp_path: Path) -> None:
    source = Path("/usr/share/datasets/fashion-mnist")
    if not source.is_dir():
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in source.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    full = load_photographs("fashion-full", root=tmp_path)
    assert full.train_images.shape == (60000, 28, 28)
    shipped = load_photographs("fashion")
    np.testing.assert_array_equal(full.test_images, shipped.test_images)
    published = {image.tobytes() for image in full.train_images}
    assert all(image.tobytes() in published for image in shipped.train_images[:200])


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="fashion-full, digits"):
        load_photographs("imagenet")
