"""The eleven sets of the paper's transfer table, in the folder layouts that torchvision reads (section 4.4).

Their splits, their metrics, and which have a validation part of their own, are those of SynCLR's
main_downstream_linear.py, which follows Kornblith et al. (2019) and Ericsson et al. (2021).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torchvision
from PIL import Image

from stablerep.errors import InvalidInput
from stablerep.evaluation.datasets.lazy import LazyImages
from stablerep.evaluation.datasets.photographs import Photographs
from stablerep.evaluation.metrics import MetricName

_CALTECH_TRAINING = 30  # photographs a class


@dataclass(frozen=True)
class _Part:
    """Photographs by number, and their labels: int64 [n], or [n k] of 0 and 1 where there are several."""

    read: Callable[[int], Image.Image]
    labels: np.ndarray


@dataclass(frozen=True)
class TransferSet:
    """How a set is opened: `parts` gives training, validation (None: a fifth is drawn) and test."""

    parts: Callable[[Path], tuple[_Part, _Part | None, _Part]]
    metric: MetricName = "top1"


def load_transfer(name: str, root: Path, *, size: int) -> Photographs:
    """One of the sets from `root`, where torchvision's class of that set finds it.

    Every image is its centre square at `size` pixels, read when it is needed. Raises InvalidInput where the
    set is not there.
    """
    chosen = TRANSFER_SETS[name]
    try:
        train, validation, test = chosen.parts(root)
    except (RuntimeError, FileNotFoundError, OSError, KeyError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidInput(
            f"{name} is not in {root} as torchvision lays it out: {reason}. Nothing is downloaded here; see "
            "https://docs.pytorch.org/vision/stable/datasets.html",
            field="data",
        ) from None
    own = 0 if validation is None else len(validation.labels)
    labels = train.labels if validation is None else np.concatenate([train.labels, validation.labels])
    count = len(train.labels)

    def read(number: int) -> Image.Image:
        if validation is not None and number >= count:
            return validation.read(number - count)
        return train.read(number)

    classes = labels.shape[1] if labels.ndim == 2 else int(max(labels.max(), test.labels.max())) + 1
    return Photographs(
        name,
        LazyImages(count + own, read, size),
        labels,
        LazyImages(len(test.labels), test.read, size),
        test.labels,
        tuple(str(number) for number in range(classes)),
        digest=_digest(name, labels, test.labels),
        metric=chosen.metric,
        validation=np.arange(count, count + own) if own else None,
        whole=True,
    )


def _digest(name: str, *labels: np.ndarray) -> str:
    """Of the labels: a set's photographs are known by its name, and reading them all takes long."""
    digest = hashlib.sha256(name.encode())
    for part in labels:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _of(dataset: Any, labels: Sequence[int] | np.ndarray) -> _Part:
    return _Part(lambda number: dataset[number][0], np.asarray(labels, dtype=np.int64))


def _cifar(kind: str) -> Callable[[Path], tuple[_Part, None, _Part]]:
    def parts(root: Path) -> tuple[_Part, None, _Part]:
        make = getattr(torchvision.datasets, kind)
        train, test = make(str(root), train=True), make(str(root), train=False)
        return _of(train, train.targets), None, _of(test, test.targets)

    return parts


def _split(kind: str, *names: str, labels: str = "_labels", **more: Any) -> Callable[[Path], Any]:
    """The set's parts by torchvision's names for them: training, validation if there is one, test."""

    def parts(root: Path) -> tuple[_Part, _Part | None, _Part]:
        make = getattr(torchvision.datasets, kind)
        opened = [make(str(root), split=name, **more) for name in names]
        found = [_of(dataset, getattr(dataset, labels)) for dataset in opened]
        return (found[0], found[1], found[2]) if len(found) == 3 else (found[0], None, found[1])

    return parts


def _cars(root: Path) -> tuple[_Part, None, _Part]:
    train, test = (torchvision.datasets.StanfordCars(str(root), split=part) for part in ("train", "test"))
    return (
        _of(train, [label for _, label in train._samples]),
        None,
        _of(test, [label for _, label in test._samples]),
    )


def _caltech(root: Path) -> tuple[_Part, None, _Part]:
    """30 photographs of every class, always the same ones, are for training, the others the test."""
    dataset = torchvision.datasets.Caltech101(str(root), target_type="category")
    labels = np.asarray(dataset.y, dtype=np.int64)
    random = np.random.default_rng(0)
    training = np.sort(
        np.concatenate(
            [
                random.permutation(np.flatnonzero(labels == label))[:_CALTECH_TRAINING]
                for label in np.unique(labels)
            ]
        )
    )
    return _chosen(dataset, labels, training), None, _chosen(dataset, labels, _others(labels, training))


def _sun(root: Path) -> tuple[_Part, None, _Part]:
    """The first of the set's own ten partitions, in Training_01.txt and Testing_01.txt beside the classes."""
    dataset = torchvision.datasets.SUN397(str(root))
    folder = root / "SUN397"
    places = {file.relative_to(folder).as_posix(): n for n, file in enumerate(dataset._image_files)}
    labels = np.asarray(dataset._labels, dtype=np.int64)
    parts = []
    for name in ("Training_01.txt", "Testing_01.txt"):
        lines = (folder / name).read_text(encoding="utf-8").split()
        parts.append(_chosen(dataset, labels, np.array([places[line.strip("/")] for line in lines])))
    return parts[0], None, parts[1]


def _voc(root: Path) -> tuple[_Part, _Part, _Part]:
    """Every class that an object in the photograph has, the difficult ones too."""
    opened = [
        torchvision.datasets.VOCDetection(str(root), year="2007", image_set=part)
        for part in ("train", "val", "test")
    ]
    train, validation, test = (_of(dataset, _objects(dataset)) for dataset in opened)
    return train, validation, test


def _objects(dataset: Any) -> np.ndarray:
    import xml.etree.ElementTree as ET

    labels = np.zeros((len(dataset), len(_VOC_CLASSES)), dtype=np.int64)
    for number, file in enumerate(dataset.annotations):
        for thing in ET.parse(file).getroot().iter("object"):
            labels[number, _VOC_CLASSES.index(thing.findtext("name", ""))] = 1
    return labels


def _chosen(dataset: Any, labels: np.ndarray, numbers: np.ndarray) -> _Part:
    return _Part(lambda number: dataset[int(numbers[number])][0], labels[numbers])


def _others(labels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.setdiff1d(np.arange(len(labels)), chosen)


_VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
TRANSFER_SETS: dict[str, TransferSet] = {
    "aircraft": TransferSet(_split("FGVCAircraft", "train", "val", "test"), "mean-per-class"),
    "caltech101": TransferSet(_caltech, "mean-per-class"),
    "cars": TransferSet(_cars),
    "cifar10": TransferSet(_cifar("CIFAR10")),
    "cifar100": TransferSet(_cifar("CIFAR100")),
    "dtd": TransferSet(_split("DTD", "train", "val", "test")),
    "flowers102": TransferSet(_split("Flowers102", "train", "val", "test"), "mean-per-class"),
    "food101": TransferSet(_split("Food101", "train", "test")),
    "pets": TransferSet(_split("OxfordIIITPet", "trainval", "test"), "mean-per-class"),
    "sun397": TransferSet(_sun),
    "voc2007": TransferSet(_voc, "map11"),
}
