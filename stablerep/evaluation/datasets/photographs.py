"""Real photographs for probes: a part of Fashion-MNIST that is shipped, all of it, scikit-learn's digits."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np

from stablerep.errors import InvalidInput, TornObject, Unavailable
from stablerep.evaluation.datasets.lazy import LazyImages
from stablerep.evaluation.metrics import MetricName

FASHION_SHA256 = "8f0101174b32b5e9e2850df62d02f907889e2133f7192a9ca807b2441dbe7ac0"
DIGITS_TEST_SHARE = 3  # every third digit is a test image
FASHION_MARGIN = 2
Images = np.ndarray | LazyImages
DOWNLOADS = Path("~/.cache/stablerep/photographs")


@dataclass(frozen=True)
class Photographs:
    """Labelled images for a probe: uint8 [n h w] (grey) or [n h w 3], and their class numbers, int64 [n].

    `margin`: the black pixels that an encoder is shown around them. Things that fill their photograph would
    lose their edges to the evaluation's centre crop; 2 pixels around 28 are just what a crop of 7/8 takes
    off, and what the shipped pipeline draws around them. `digest`: SHA-256 of what the images were read from,
    where they were shrunk on the way. `metric`: how the transfer tables judge the set; labels are [n k] of 0
    and 1 for map11. `validation`: indices of the training photographs that are the set's own validation
    part. `whole`: encoders are shown the whole square, and not seven eighths of it.
    """

    name: str
    train_images: Images
    train_labels: np.ndarray
    test_images: Images
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    margin: int = 0
    digest: str = ""
    metric: MetricName = "top1"
    validation: np.ndarray | None = None
    whole: bool = False

    def subset(self, train: int, test: int) -> "Photographs":
        """The first photographs of each class, `train` and `test` in all. Raises InvalidInput if too few."""
        kept_train = _first_of_each(self.train_labels, train, len(self.class_names), "train")
        kept_test = _first_of_each(self.test_labels, test, len(self.class_names), "test")
        return replace(
            self,
            digest="",
            validation=None,
            train_images=self.train_images[kept_train],
            train_labels=self.train_labels[kept_train],
            test_images=self.test_images[kept_test],
            test_labels=self.test_labels[kept_test],
        )

    def framed(self) -> "Photographs":
        """The photographs with their margin, as encoders see them."""
        if (
            not self.margin
            or isinstance(self.train_images, LazyImages)
            or isinstance(self.test_images, LazyImages)
        ):
            return self
        sides = ((0, 0), (self.margin, self.margin), (self.margin, self.margin))
        train, test = (
            np.pad(images, sides + ((0, 0),) * (images.ndim - 3))
            for images in (self.train_images, self.test_images)
        )
        return replace(self, train_images=train, test_images=test, margin=0)


def _first_of_each(labels: np.ndarray, count: int, classes: int, field: str) -> np.ndarray:
    each, rest = divmod(count, classes)
    if rest or not each or each > np.bincount(labels, minlength=classes).min():
        raise InvalidInput(
            f"cannot take {count} photographs in equal parts from {classes} classes of at least "
            f"{np.bincount(labels, minlength=classes).min()}",
            field=field,
        )
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:each] for label in range(classes)]))


def load_photographs(name: str = "fashion", root: Path | None = None) -> Photographs:
    """Photographs by name.

    `fashion`: 5,000 training photographs, which no shipped pipeline was trained on, and the 10,000 test ones;
    in this package. `fashion-full`: all 60,000 and 10,000; downloaded by torchvision to `root` unless
    there. The shipped pipeline was trained on most of these 60,000. `digits`: 1,797 scanned digits, 8 x 8.

    Raises InvalidInput for another name, TornObject if the shipped file is damaged, and Unavailable if a
    download is needed and fails.
    """
    loaders: dict[str, Callable[[], Photographs]] = {
        "fashion": _shipped_fashion,
        "fashion-full": partial(_whole_fashion, root or DOWNLOADS.expanduser()),
        "digits": _digits,
    }
    if name not in loaders:
        raise InvalidInput(f"no photographs named {name!r}; there are {', '.join(loaders)}", field="data")
    return loaders[name]()


def _shipped_fashion() -> Photographs:
    return read_photographs(
        "fashion",
        (files("stablerep") / "assets" / "fashion_photographs.npz").read_bytes(),
        sha256=FASHION_SHA256,
        margin=FASHION_MARGIN,
    )


def read_photographs(name: str, data: bytes, *, sha256: str, margin: int = 0) -> Photographs:
    """Photographs from an npz with the fields of `Photographs`. Raises TornObject on another checksum."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise TornObject(f"the photographs {name!r} have SHA-256 {found}, not {sha256}; install again")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return Photographs(
            name,
            arrays["train_images"],
            arrays["train_labels"].astype(np.int64),
            arrays["test_images"],
            arrays["test_labels"].astype(np.int64),
            tuple(str(class_name) for class_name in arrays["class_names"]),
            margin,
        )


def _whole_fashion(root: Path) -> Photographs:
    from torchvision.datasets import FashionMNIST

    try:
        train, test = (FashionMNIST(root=str(root), train=part, download=True) for part in (True, False))
    except (OSError, RuntimeError) as error:
        raise Unavailable(
            f"Fashion-MNIST is not in {root} and could not be downloaded ({error}); use `fashion`, which is "
            f"in this package, or put the four idx files into {root / 'FashionMNIST' / 'raw'}"
        ) from error
    return Photographs(
        "fashion-full",
        train.data.numpy(),
        train.targets.numpy(),
        test.data.numpy(),
        test.targets.numpy(),
        _shipped_fashion().class_names,
        FASHION_MARGIN,
    )


def _digits() -> Photographs:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    test = np.arange(len(labels)) % DIGITS_TEST_SHARE == 0
    return Photographs(
        "digits", images[~test], labels[~test], images[test], labels[test], tuple("0123456789")
    )
