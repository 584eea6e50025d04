"""Reads Fashion-MNIST, splits off the probe's photographs and writes them as an asset of the package.

    python scripts/tiny_pipeline/photographs.py                   # Debian's files, or a download
    python scripts/tiny_pipeline/photographs.py --source DIR --out FILE.npz

Of the 60,000 training photographs, 5,000 (500 a class, drawn with a fixed seed) are held out: the probe
trains on them, and no text-to-image pipeline ever sees them. The other 55,000 are the pipeline's. The
10,000 test photographs are left as they are, and only the probe's test reads them.
"""

import argparse
import gzip
import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CLASS_NAMES = (
    "t-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
HELD_OUT_PER_CLASS = 500
SPLIT_SEED = 20230601
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
ASSETS = Path(__file__).resolve().parents[2] / "stablerep" / "assets"


@dataclass(frozen=True)
class Photographs:
    """Grey product photographs, uint8 [n 28 28], with their class numbers, uint8 [n]."""

    images: np.ndarray
    labels: np.ndarray


def read_idx(path: Path) -> np.ndarray:
    """The array in a gzipped idx file of unsigned bytes; ValueError if it is something else."""
    with gzip.open(path, "rb") as file:
        zero, kind, dimensions = struct.unpack(">HBB", file.read(4))
        if zero != 0 or kind != 0x08:
            raise ValueError(f"{path} is not an idx file of unsigned bytes")
        shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
        values = np.frombuffer(file.read(), dtype=np.uint8)
    if values.size != int(np.prod(shape)):
        raise ValueError(f"{path} holds {values.size} values, its header says {shape}")
    return values.reshape(shape)


def find_source(source: Path | None = None) -> Path:
    """The folder with the four idx.gz files: the one given, Debian's, or a download by torchvision."""
    if source is not None:
        return source
    if DEBIAN_FOLDER.is_dir():
        return DEBIAN_FOLDER
    from torchvision.datasets import FashionMNIST

    cache = Path(__file__).resolve().parents[2] / ".cache" / "torchvision"
    FashionMNIST(root=str(cache), train=True, download=True)
    return cache / "FashionMNIST" / "raw"


def load(source: Path, part: str) -> Photographs:
    """The `train` (60,000) or `t10k` (10,000) photographs."""
    return Photographs(
        images=read_idx(source / f"{part}-images-idx3-ubyte.gz"),
        labels=read_idx(source / f"{part}-labels-idx1-ubyte.gz"),
    )


def split_indices(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices into the training photographs: (the probe's 5,000, the pipeline's 55,000), both sorted.

    The draw depends on the labels and SPLIT_SEED alone, so every script gets the same two sets.
    """
    random = np.random.default_rng(SPLIT_SEED)
    held_out = np.concatenate(
        [
            random.choice(np.flatnonzero(labels == label), HELD_OUT_PER_CLASS, replace=False)
            for label in range(len(CLASS_NAMES))
        ]
    )
    held_out.sort()
    return held_out, np.setdiff1d(np.arange(len(labels)), held_out)


def pipeline_photographs(source: Path) -> Photographs:
    """The 55,000 photographs a pipeline may be trained on."""
    train = load(source, "train")
    _, kept = split_indices(train.labels)
    return Photographs(images=train.images[kept], labels=train.labels[kept])


def probe_photographs(source: Path) -> Photographs:
    """The 5,000 photographs that the probe trains on."""
    train = load(source, "train")
    held_out, _ = split_indices(train.labels)
    return Photographs(images=train.images[held_out], labels=train.labels[held_out])


def write_probe_photographs(source: Path, out: Path) -> str:
    """Writes the probe's npz (held-out training photographs and all test ones); returns its SHA-256."""
    train, test = load(source, "train"), load(source, "t10k")
    held_out, _ = split_indices(train.labels)
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out,
        train_images=train.images[held_out],
        train_labels=train.labels[held_out],
        test_images=test.images,
        test_labels=test.labels,
        class_names=np.array(CLASS_NAMES),
    )
    return hashlib.sha256(out.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--source", type=Path, help="folder with the four Fashion-MNIST idx.gz files")
    parser.add_argument("--out", type=Path, default=ASSETS / "fashion_photographs.npz")
    arguments = parser.parse_args()
    digest = write_probe_photographs(find_source(arguments.source), arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
