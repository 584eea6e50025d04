"""The embedding map of a probe's photographs as objects beside a run, for whoever shows it.

runs/<run>/maps/<data>.json: points, classes, nearest neighbours; <data>.jpg: the photographs, in rows of 32.
"""

import io
import json

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from stablerep.evaluation.embedding_map import embedding_map
from stablerep.evaluation.feature_sets import FeatureSet
from stablerep.shards.layout import map_key
from stablerep.storage import Store

NEIGHBOURS = 8
COLUMNS = 32
LARGEST = 64
"""Side of a photograph in the sheet, in pixels, at most."""


def write_map(store: Store, run: str, features: FeatureSet) -> None:
    """Writes both objects for at most 1,000 of the test photographs; for sets with one class a photograph.

    Neighbours are those of the map, by the cosine of centred features in all their dimensions.
    """
    data = features.data
    if data.test_labels.ndim != 1:
        return
    train, test = features.of()
    found = embedding_map(test, torch.from_numpy(data.test_labels))
    unit = normalize(test[found.rows].double() - train.double().mean(0), dim=1)
    likeness = unit @ unit.T
    likeness.fill_diagonal_(-2)
    near = likeness.topk(min(NEIGHBOURS, len(unit) - 1), dim=1).indices
    images = [_small(np.asarray(data.test_images[row : row + 1])[0]) for row in found.rows]
    side = images[0].height
    sheet = Image.new("RGB", (COLUMNS * side, -(-len(images) // COLUMNS) * side))
    for place, image in enumerate(images):
        sheet.paste(image, (place % COLUMNS * side, place // COLUMNS * side))
    content = {
        "data": data.name,
        "classes": list(data.class_names),
        "side": side,
        "columns": COLUMNS,
        "points": [[round(x, 4), round(y, 4)] for x, y in found.coordinates],
        "labels": found.labels,
        "rows": found.rows,
        "neighbours": near.tolist(),
    }
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=90)
    store.put(map_key(run, data.name, "jpg"), buffer.getvalue())
    store.put(map_key(run, data.name, "json"), json.dumps(content).encode())


def _small(pixels: np.ndarray) -> Image.Image:
    """A square, shrunk where it is larger."""
    image = Image.fromarray(pixels).convert("RGB")
    side = min(*image.size, LARGEST)
    return image.resize((side, side)) if image.size != (side, side) else image
