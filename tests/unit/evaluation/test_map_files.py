"""The map of a probe beside a run: its photographs, and their neighbours against a loop in float64."""

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stablerep.evaluation.datasets.photographs import Photographs
from stablerep.evaluation.feature_sets import FeatureSet
from stablerep.evaluation.map_files import COLUMNS, NEIGHBOURS, write_map
from stablerep.shards.layout import map_key
from stablerep.storage import open_store


def photographs(side: int, count: int = 60, *, several: bool = False) -> Photographs:
    drawn = np.random.default_rng(0)
    images = drawn.integers(0, 255, (2 * count, side, side, 3), dtype=np.uint8)
    images[:, :, :, :] = images.mean(axis=(1, 2), keepdims=True).astype(np.uint8)
    labels = np.arange(2 * count) % 3
    if several:
        labels = np.eye(3, dtype=np.int64)[labels]
    return Photographs(
        "shapes", images[:count], labels[:count], images[count:], labels[count:], ("a", "b", "c")
    )


def test_neighbours_are_the_nearest_by_cosine_and_the_sheet_holds_their_photographs(tmp_path: Path) -> None:
    store, data = open_store(tmp_path), photographs(96)
    features = FeatureSet("pixels", data)
    drawn = torch.Generator().manual_seed(1)
    train, test = (torch.randn(60, 7, generator=drawn) for _ in range(2))
    features._found["pooled"] = train, test
    write_map(store, "first", features)
    found = json.loads(store.get(map_key("first", "shapes", "json")))
    rows, centre = found["rows"], train.numpy().astype(np.float64).mean(0)
    assert sorted(rows) == list(range(60))
    assert found["labels"] == [int(data.test_labels[row]) for row in rows]
    assert found["classes"] == ["a", "b", "c"]
    for place, row in enumerate(rows):
        own = test[row].numpy() - centre
        cosines = []
        for other, other_row in enumerate(rows):
            vector = test[other_row].numpy() - centre
            cosine = own @ vector / np.sqrt((own @ own) * (vector @ vector))
            cosines.append((-cosine, other))
        wanted = [other for _, other in sorted(cosines) if other != place][:NEIGHBOURS]
        assert found["neighbours"][place] == wanted
    with Image.open(io.BytesIO(store.get(map_key("first", "shapes", "jpg")))) as sheet:
        side = found["side"]
        assert (side, sheet.size) == (64, (COLUMNS * 64, 2 * 64))
        for place in (0, 31, 32, 59):
            left, top = place % COLUMNS * side, place // COLUMNS * side
            middle = np.asarray(sheet.crop((left, top, left + side, top + side)))[20:40, 20:40].mean()
            assert abs(middle - data.test_images[rows[place]].mean()) < 4


def test_a_set_with_several_classes_a_photograph_has_no_map(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write_map(store, "first", FeatureSet("pixels", photographs(8, several=True)))
    assert list(store.list()) == []
