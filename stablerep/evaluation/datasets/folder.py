"""Labelled photographs in folders: a folder of class folders, or `train` and `test` (or `val`) with those."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from stablerep.data.files import DAMAGED, IMAGE_ENDINGS, why_damaged
from stablerep.errors import InvalidInput
from stablerep.evaluation.datasets.photographs import Photographs

_TEST_NAMES = ("test", "val", "valid", "validation")
_TEST_SHARE = 0.2
_READERS = 8


def load_folder(folder: Path, *, size: int = 256) -> Photographs:
    """The photographs below a folder, each its centre square, resized (bicubic) to `size` pixels.

    With `train` and one of `test`, `val`, these are the parts; else a fifth of every class, drawn always in
    the same way, is for the test. An encoder that resizes to `size` and crops the centre sees of them what it
    would see of the whole photograph. Raises InvalidInput naming a damaged file, or what is missing.
    """
    test = next((folder / name for name in _TEST_NAMES if (folder / name).is_dir()), None)
    if (folder / "train").is_dir() and test is not None:
        train_files, names = _files(folder / "train")
        test_files, test_names = _files(test)
        if names != test_names:
            raise InvalidInput(
                f"{folder / 'train'} and {test} have different classes: "
                f"{', '.join(sorted(set(names) ^ set(test_names)))}",
                field="data",
            )
    else:
        files, names = _files(folder)
        train_files, test_files = _split(files)
    read = [_read_all(files, size) for files in (train_files, test_files)]
    return Photographs(
        folder.resolve().name,
        read[0],
        np.array([label for _, label in train_files], dtype=np.int64),
        read[1],
        np.array([label for _, label in test_files], dtype=np.int64),
        tuple(names),
        digest=_digest(train_files, test_files),
    )


def _files(folder: Path) -> tuple[list[tuple[Path, int]], list[str]]:
    """Every image with the number of its class, and the names of the classes."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    found = [
        (file, label)
        for label, path in enumerate(classes)
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in IMAGE_ENDINGS
    ]
    if len({label for _, label in found}) < 2:
        raise InvalidInput(
            f"{folder} holds no two folders with images; want FOLDER/CLASS/photograph.jpg", field="data"
        )
    return found, [path.name for path in classes]


def _digest(*parts: list[tuple[Path, int]]) -> str:
    digest = hashlib.sha256()
    for files in parts:
        for file, label in files:
            digest.update(f"{label}:{hashlib.sha256(file.read_bytes()).hexdigest()} ".encode())
        digest.update(b"/")
    return digest.hexdigest()


def _split(files: list[tuple[Path, int]]) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    random = np.random.default_rng(0)
    labels = np.array([label for _, label in files])
    chosen: set[int] = set()
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(1, round(len(members) * _TEST_SHARE))
        if count == len(members):
            raise InvalidInput(
                f"{files[members[0]][0].parent} holds one photograph: none would be left to learn from",
                field="data",
            )
        chosen |= set(random.choice(members, count, replace=False).tolist())
    train = [file for number, file in enumerate(files) if number not in chosen]
    return train, [files[number] for number in sorted(chosen)]


def _read_all(files: list[tuple[Path, int]], size: int) -> np.ndarray:
    with ThreadPoolExecutor(_READERS) as readers:
        return np.stack(list(readers.map(lambda file: _read(file[0], size), files)))


def _read(file: Path, size: int) -> np.ndarray:
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except DAMAGED as error:
        raise InvalidInput(f"{file} cannot be read: {why_damaged(error)}", field="data") from None
    return np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC))
