"""The eleven transfer sets, in small folders laid out as torchvision reads the real ones."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat
from typer.testing import CliRunner

from stablerep.cli import app
from stablerep.errors import InvalidInput
from stablerep.evaluation import protocols
from stablerep.evaluation.datasets.transfer import TRANSFER_SETS, load_transfer
from stablerep.evaluation.feature_sets import FeatureSet
from stablerep.evaluation.protocols import ProbeSettings, measure

CLASSES = ("ant", "bee", "cat")
EACH = {"train": 6, "val": 4, "test": 5}


def picture(label: int, number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A class has a colour, a photograph its own noise."""
    random = np.random.default_rng([label, number])
    pixels = random.normal(0, 20, (size[1], size[0], 3)) + np.eye(3)[label % 3] * 160 + 40
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def save(path: Path, label: int, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(label, number).save(path)


def members(part: str) -> list[tuple[int, int]]:
    """(label, number) of a part's photographs; numbers are those of no other part."""
    first = 100 * list(EACH).index(part)
    return [(label, first + n) for n in range(EACH[part]) for label in range(len(CLASSES))]


def lines(path: Path, content: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(content) + "\n", encoding="utf-8")


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    lines(data / "variants.txt", list(CLASSES))
    for part in EACH:
        for label, number in members(part):
            save(data / "images" / f"{label}{number:03d}.jpg", label, number)
        lines(data / f"images_variant_{part}.txt", [f"{k}{n:03d} {CLASSES[k]}" for k, n in members(part)])


def caltech101(root: Path) -> None:
    (root / "caltech101" / "Annotations").mkdir(parents=True)
    (root / "caltech101" / "101_ObjectCategories" / "BACKGROUND_Google").mkdir(parents=True)
    for label, name in enumerate(CLASSES):
        for number in range(33):
            file = root / "caltech101" / "101_ObjectCategories" / name / f"image_{number + 1:04d}.jpg"
            save(file, label, number)


def cars(root: Path) -> None:
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(CLASSES, dtype=object)})
    for part, where in (
        ("train", base / "devkit" / "cars_train_annos.mat"),
        ("test", base / "cars_test_annos_withlabels.mat"),
    ):
        names = []
        for label, number in members(part):
            names.append((f"{label}{number:03d}.jpg", label + 1))
            save(base / f"cars_{part}" / names[-1][0], label, number)
        savemat(where, {"annotations": np.array(names, dtype=[("fname", object), ("class", object)])})


def cifar(kind: type, labels: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        folder = root / kind.base_folder
        folder.mkdir(parents=True)
        for part, files in (("train", kind.train_list), ("test", kind.test_list)):
            for file, _ in files:
                own = members(part)
                data = np.stack([np.asarray(picture(k, n, (32, 32))) for k, n in own])
                content = {
                    "data": data.transpose(0, 3, 1, 2).reshape(len(own), -1),
                    labels: [k for k, _ in own],
                }
                (folder / file).write_bytes(pickle.dumps(content))
        names = {kind.meta["key"]: list(CLASSES)}
        (folder / kind.meta["filename"]).write_bytes(pickle.dumps(names))

    return write


def dtd(root: Path) -> None:
    base = root / "dtd" / "dtd"
    for part in EACH:
        for label, number in members(part):
            save(base / "images" / CLASSES[label] / f"{number}.jpg", label, number)
        lines(base / "labels" / f"{part}1.txt", [f"{CLASSES[k]}/{n}.jpg" for k, n in members(part)])


def flowers102(root: Path) -> None:
    base = root / "flowers-102"
    everyone = [member for part in EACH for member in members(part)]
    for place, (label, number) in enumerate(everyone, start=1):
        save(base / "jpg" / f"image_{place:05d}.jpg", label, number)
    savemat(base / "imagelabels.mat", {"labels": np.array([[k + 1 for k, _ in everyone]])})
    places = np.arange(1, len(everyone) + 1)
    ends = np.cumsum([len(members(part)) for part in EACH])
    train, val, test = np.split(places, ends[:-1])
    savemat(base / "setid.mat", {"trnid": train[None], "valid": val[None], "tstid": test[None]})


def food101(root: Path) -> None:
    base = root / "food-101"
    for part in ("train", "test"):
        for label, number in members(part):
            save(base / "images" / CLASSES[label] / f"{number}.jpg", label, number)
        listed = {
            name: [f"{name}/{n}" for k, n in members(part) if k == label]
            for label, name in enumerate(CLASSES)
        }
        (base / "meta").mkdir(exist_ok=True)
        (base / "meta" / f"{part}.json").write_text(json.dumps(listed), encoding="utf-8")


def pets(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    for part, name in (("train", "trainval"), ("test", "test")):
        listed = []
        for label, number in members(part):
            save(base / "images" / f"{CLASSES[label]}_{number}.jpg", label, number)
            listed.append(f"{CLASSES[label]}_{number} {label + 1} 1 1")
        lines(base / "annotations" / f"{name}.txt", listed)


def sun397(root: Path) -> None:
    base = root / "SUN397"
    lines(base / "ClassName.txt", [f"/{name[0]}/{name}" for name in CLASSES])
    for part, file in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        listed = []
        for label, number in members(part):
            name = CLASSES[label]
            save(base / name[0] / name / f"sun_{number}.jpg", label, number)
            listed.append(f"/{name[0]}/{name}/sun_{number}.jpg")
        lines(base / file, listed)


def voc2007(root: Path) -> None:
    """Every photograph has its class, and every second one a bird beside it."""
    base = root / "VOCdevkit" / "VOC2007"
    for part in EACH:
        lines(base / "ImageSets" / "Main" / f"{part}.txt", [f"{k}{n:03d}" for k, n in members(part)])
        for label, number in members(part):
            name = f"{label}{number:03d}"
            save(base / "JPEGImages" / f"{name}.jpg", label, number)
            things = [("aeroplane", "bicycle", "cat")[label], *(["bird"] if number % 2 else [])]
            found = "".join(f"<object><name>{thing}</name></object>" for thing in things)
            lines(base / "Annotations" / f"{name}.xml", [f"<annotation>{found}</annotation>"])


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "aircraft": aircraft,
    "caltech101": caltech101,
    "cars": cars,
    "cifar10": cifar(torchvision.datasets.CIFAR10, "labels"),
    "cifar100": cifar(torchvision.datasets.CIFAR100, "fine_labels"),
    "dtd": dtd,
    "flowers102": flowers102,
    "food101": food101,
    "pets": pets,
    "sun397": sun397,
    "voc2007": voc2007,
}
SIZES = dict.fromkeys(LAYOUTS, (18, 15)) | {
    "aircraft": (30, 15),
    "caltech101": (90, 9),
    "cifar10": (90, 15),
    "dtd": (30, 15),
    "flowers102": (30, 15),
    "voc2007": (30, 15),
}
"""Training (its validation part included) and test photographs."""


@pytest.fixture
def any_checksum(monkeypatch) -> None:
    """The real files' checksums are what small ones cannot have."""
    for module in (torchvision.datasets.cifar, torchvision.datasets.flowers102):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: Path(path).is_file())


def test_all_eleven_are_here():
    assert LAYOUTS.keys() == TRANSFER_SETS.keys()


@pytest.mark.usefixtures("any_checksum")
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_set_is_read_and_measured_by_its_own_metric(name, tmp_path, monkeypatch):
    monkeypatch.setattr(protocols, "TRANSFER_STRENGTHS", torch.logspace(-3, 1, 5))
    LAYOUTS[name](tmp_path)
    data = load_transfer(name, tmp_path, size=16)
    assert (len(data.train_images), len(data.test_images)) == SIZES[name]
    assert data.train_images[:].shape == (SIZES[name][0], 16, 16, 3)
    own = {"aircraft", "dtd", "flowers102", "voc2007"}
    assert (data.validation is not None) is (name in own)
    if data.validation is not None:
        assert data.validation.tolist() == list(range(18, 30))
    colours = data.test_images[:].mean(axis=(1, 2)).argmax(axis=1)
    if name != "voc2007":
        assert colours.tolist() == data.test_labels.tolist()

    record = measure("logreg", FeatureSet("pixels", data), "pixels", ProbeSettings())
    assert record.settings["metric"] == TRANSFER_SETS[name].metric
    score = record.scores["linear"]
    assert score.low <= score.value <= score.high
    assert score.value > (0.99 if name != "voc2007" else 0.7)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_set_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(InvalidInput, match=f"{name} is not in .* as torchvision lays it out"):
        load_transfer(name, tmp_path, size=16)


def test_several_labels_are_for_logreg_alone(tmp_path):
    voc2007(tmp_path)
    features = FeatureSet("pixels", load_transfer("voc2007", tmp_path, size=16))
    with pytest.raises(InvalidInput, match="several labels a photograph"):
        measure("frozen", features, "pixels", ProbeSettings())


def test_the_verb_asks_for_the_folder_and_measures(tmp_path, monkeypatch):
    monkeypatch.setattr(protocols, "TRANSFER_STRENGTHS", torch.logspace(-3, 1, 5))
    dtd(tmp_path / "data")
    missing = CliRunner().invoke(app, ["probe", "pixels", "--data", "dtd", "--protocol", "logreg"])
    assert "names the folder that holds dtd" in str(missing.exception)
    arguments = ["--data", "dtd", "--protocol", "logreg,knn", "--root", str(tmp_path / "data")]
    done = CliRunner().invoke(app, ["probe", "pixels", *arguments, "--out", str(tmp_path / "out"), "-k", "3"])
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "out").iterdir())) == 2
