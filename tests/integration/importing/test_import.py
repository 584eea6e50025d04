"""Images of one's own: imported from every kind of source, resumed, trained on, refused with a reason."""

import csv
import io
import json
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import FakeData

from stablerep.data import GroupDataset
from stablerep.errors import AlreadyExists, InvalidInput, NotFound
from stablerep.importing.sources import find_images
from stablerep.importing.write import Preparation, import_images
from stablerep.shards import read_dataset
from stablerep.storage import open_store
from stablerep.training.distributed import Ranks
from stablerep.training.loop import train
from tests.integration.training.test_training import configuration


def picture(value: int, size: tuple[int, int] = (24, 16), kind: str = "JPEG", **more: object) -> bytes:
    random = np.random.default_rng(value)
    pixels = (np.full((size[1], size[0], 3), value) + random.normal(0, 6, (size[1], size[0], 3))).clip(0, 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, kind, **more)
    return buffer.getvalue()


@pytest.fixture
def class_folders(tmp_path) -> Path:
    """Two classes of 7 and 4 photographs."""
    folder = tmp_path / "photographs"
    for name, count, shade in (("ankle_boot", 7, 60), ("bag", 4, 160)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.jpg").write_bytes(picture(shade + number))
    (folder / "notes.txt").write_text("no image")
    return folder


def test_class_folders_become_groups_of_their_class(class_folders, store_url):
    store = open_store(store_url)
    result = import_images(store, "mine", find_images([str(class_folders)]), images_per_group=4)
    dataset = GroupDataset(f"{store.url.rstrip('/')}/datasets/mine")
    assert [(group.caption, len(group.encoded)) for group in dataset] == [
        ("ankle boot", 4),
        ("ankle boot", 3),
        ("bag", 4),
    ]
    assert dataset.labels.tolist() == [0, 0, 2]
    assert (result.captions, result.groups, result.images, result.smallest_group) == (2, 3, 11, 3)
    files = [file for group in dataset for file in group.info["files"]]
    assert sorted(files) == sorted(str(p.relative_to(class_folders)) for p in class_folders.rglob("*.jpg"))
    for group in dataset:
        for file, encoded in zip(group.info["files"], group.encoded, strict=True):
            assert encoded == (class_folders / file).read_bytes(), "a JPEG file is kept as it is"
    assert read_dataset(store, "mine").counts == {"shards": 1, "groups": 3, "images": 11}


def test_an_import_is_gone_on_with_and_never_mixed(class_folders, tmp_path, monkeypatch):
    monkeypatch.setattr("stablerep.importing.write.IMAGES_PER_SHARD", 4)
    store, images = open_store(tmp_path / "store"), find_images([str(class_folders)])

    def stop_early(done: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_images(store, "mine", images, images_per_group=4, progress=stop_early)
    half = {entry.key: store.get(entry.key) for entry in store.list("datasets/mine/shards/")}
    result = import_images(store, "mine", images, images_per_group=4)
    assert result.images == 11
    whole = {entry.key: store.get(entry.key) for entry in store.list("datasets/mine/shards/")}
    assert len(half) < len(whole) == 3
    assert half.items() <= whole.items()
    for other, preparation in ((images[1:], None), (images, Preparation(size=8))):
        with pytest.raises(AlreadyExists, match="--name"):
            import_images(store, "mine", other, preparation, images_per_group=4)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata_gives_the_captions(tmp_path, kind):
    folder = tmp_path / "own"
    folder.mkdir()
    records = [
        {"file_name": f"{n}.png", "text": f"a {shade} shoe"} for n, shade in enumerate(["red", "blue"])
    ]
    for n in range(2):
        (folder / f"{n}.png").write_bytes(picture(90 + n, kind="PNG"))
    if kind == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
    else:
        with (folder / "metadata.csv").open("w") as file:
            writer = csv.DictWriter(file, ["file_name", "text"])
            writer.writeheader()
            writer.writerows(records)
    store = open_store(tmp_path / "store")
    import_images(store, "own", find_images([str(folder)]))
    groups = list(GroupDataset(f"{store.url}/datasets/own"))
    assert [group.caption for group in groups] == ["a red shoe", "a blue shoe"]
    assert all(group.encoded[0][:2] == b"\xff\xd8" for group in groups), "all is stored as JPEG"
    exact = np.asarray(Image.open(folder / "0.png"), np.int16)
    assert np.abs(np.asarray(groups[0].images[0], np.int16) - exact).mean() < 8


def write_tar(path: Path, count: int, captions: str) -> None:
    """As img2dataset writes: key.jpg, key.txt, key.json."""
    with tarfile.open(path, "w") as tar:
        for n in range(count):
            fields = {"jpg": picture(50 + n), "json": json.dumps({"caption": f"{captions} {n}"}).encode()}
            if n % 2:
                fields["txt"] = f"{captions} {n}".encode()
            for ending, data in fields.items():
                header = tarfile.TarInfo(f"{path.stem}{n:04d}.{ending}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))


def test_tars_of_img2dataset_are_read_by_a_range(tmp_path):
    for n in range(3):
        write_tar(tmp_path / f"{n:05d}.tar", 4, f"shoe {n}")
    images = find_images([f"{tmp_path}/{{00000..00002}}.tar"])
    assert [image.caption for image in images] == [f"shoe {n} {k}" for n in range(3) for k in range(4)]
    assert images[5].read() == picture(51)


def test_a_data_set_of_torchvision(tmp_path, monkeypatch):
    import torchvision

    class Own(FakeData):
        def __init__(self, root: str, download: bool = False) -> None:
            super().__init__(size=5, image_size=(3, 12, 12), num_classes=2)
            self.classes = ["ankle_boot", "bag"]

    monkeypatch.setattr(torchvision.datasets, "Own", Own, raising=False)
    images = find_images(["torchvision:Own"], tmp_path)
    assert len(images) == 5
    assert {image.caption for image in images} <= {"ankle boot", "bag"}
    assert Image.open(io.BytesIO(images[0].read())).size == (12, 12)
    with pytest.raises(InvalidInput, match="no data set 'Nothing'"):
        find_images(["torchvision:Nothing"], tmp_path)
    with pytest.raises(InvalidInput, match="cannot be opened"):
        find_images(["torchvision:CIFAR10"], tmp_path)
    with pytest.raises(InvalidInput, match="--root"):
        find_images(["torchvision:CIFAR10"])


def test_large_and_turned_images_are_stored_upright_at_the_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "large.jpg").write_bytes(picture(90, (64, 40)))
    (folder / "turned.jpg").write_bytes(picture(90, (24, 16), exif=exif))
    store = open_store(tmp_path / "store")
    import_images(store, "own", find_images([str(folder)]), Preparation(size=20))
    sizes = {g.caption: g.images[0].size for g in GroupDataset(f"{store.url}/datasets/own")}
    assert sizes == {"large.jpg": (32, 20), "turned.jpg": (16, 24)}


def test_damaged_images_are_skipped_and_named(class_folders, tmp_path):
    (class_folders / "bag" / "torn.jpg").write_bytes(picture(9)[:300])
    (class_folders / "bag" / "empty.png").write_bytes(b"")
    store = open_store(tmp_path / "store")
    result = import_images(store, "own", find_images([str(class_folders)]))
    assert result.images == 11
    assert sorted(problem.split(":")[0] for problem in result.skipped) == ["bag/empty.png", "bag/torn.jpg"]
    assert "bag/empty.png: no image" in result.skipped


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({}, "no image"),
        ({"metadata.jsonl": "{"}, "line 1 is not JSON"),
        ({"metadata.jsonl": '{"image": "a.jpg"}'}, "want file_name"),
        ({"metadata.jsonl": '{"file_name": "../a.jpg", "text": "t"}'}, "leads out"),
        ({"x.tar": "not a tar at all"}, "is no tar"),
    ],
)
def test_what_cannot_be_imported_says_why(tmp_path, files, named):
    folder = tmp_path / "own"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    source = folder / "x.tar" if "x.tar" in files else folder
    with pytest.raises(InvalidInput, match=named):
        find_images([str(source)])


def test_tars_of_another_kind_in_a_dataset_are_told_apart(tmp_path):
    folder = tmp_path / "store/datasets/cc3m"
    folder.mkdir(parents=True)
    write_tar(folder / "00000.tar", 2, "shoe")
    with pytest.raises(NotFound, match=r"00000\.tar.*stablerep import"):
        GroupDataset(f"{tmp_path}/store/datasets/cc3m")


def test_a_folder_of_photographs_is_trained_on_with_one_command_each(class_folders, tmp_path):
    command = ["import", str(class_folders), "--name", "mine", "--store", str(tmp_path / "store")]
    done = subprocess.run([sys.executable, "-m", "stablerep", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "11 images in 2 groups of 2 captions; 0 skipped" in done.stdout
    url = (tmp_path / "store").as_uri()
    assert f"stablerep train --dataset {url}/datasets/mine --run {url}/runs/first" in done.stdout
    config = configuration(
        url,
        "first",
        datasets=[f"{url}/datasets/mine"],
        method={"name": "simclr"},
        views_per_batch=16,
        steps=4,
    )
    result = train(config, Ranks(0, 1, torch.device("cpu")), threading.Event())
    assert result is not None
    assert result["groups"] == 11


def test_the_shipped_photographs_are_images_of_ones_own(tmp_path):
    images = find_images(["builtin:fashion"])
    assert len(images) == 5000
    result = import_images(open_store(tmp_path), "photographs", images[:40])
    assert result.images == 40
    group = GroupDataset(f"{tmp_path.as_uri()}/datasets/photographs")[0]
    assert group.images[0].size == (32, 32)
    assert group.info["label"] in group.caption
