"""Protocols of runs that compare images with texts: zero-shot classes, and retrieval on a dataset."""

import hashlib
import io

import numpy as np
import torch
from PIL import Image

from stablerep.data.corpus.groups import GroupDataset
from stablerep.errors import InvalidInput
from stablerep.evaluation.datasets.photographs import Photographs
from stablerep.evaluation.features import prepare
from stablerep.evaluation.probes.zero_shot import (
    class_directions,
    retrieval_recalls,
    zero_shot_accuracy,
)
from stablerep.evaluation.records import make_data_record, make_record, wilson
from stablerep.runs.probe_records import ProbeRecord
from stablerep.training.image_text import Towers

_BATCH = 250


def zero_shot(towers: Towers, model: str, data: Photographs) -> ProbeRecord:
    """Test photographs to the names of their classes, by the 80 prompts of CLIP for ImageNet (open_clip)."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    names = [name.replace("_", " ") for name in data.class_names]
    directions = class_directions(towers.texts, names, OPENAI_IMAGENET_TEMPLATES)
    images = data.framed().test_images
    embedded = torch.cat(
        [
            towers.images(prepare(images[start : start + _BATCH], towers.encoder))
            for start in range(0, len(images), _BATCH)
        ]
    )
    accuracy = zero_shot_accuracy(embedded, torch.from_numpy(data.test_labels), directions)
    options = {"templates": len(OPENAI_IMAGENET_TEMPLATES)}
    score = {"zero-shot": wilson(accuracy, len(images))}
    return make_record(model, data, "zeroshot", options, score, {"classes": names})


def retrieval(towers: Towers, model: str, dataset: GroupDataset, most: int = 1000) -> ProbeRecord:
    """The first image of each of at most `most` captions with different texts, and these texts.

    Raises InvalidInput if fewer than two captions have an image.
    """
    embedded, texts, digest = [], [], hashlib.sha256()
    first = np.unique(dataset.labels[dataset.image_counts > 0])[:most]
    for index in first.tolist():
        group = dataset[index]
        with Image.open(io.BytesIO(group.encoded[0])) as image:
            pixels = np.asarray(image.convert("RGB"))
        embedded.append(towers.images(prepare(pixels[None], towers.encoder)))
        texts.append(group.caption)
        digest.update(group.encoded[0] + group.caption.encode())
    if len(texts) < 2:
        raise InvalidInput(f"{dataset.url} has {len(texts)} captions with images", field="data")
    recalls = retrieval_recalls(torch.cat(embedded), torch.arange(len(texts)), towers.texts(texts))
    scores = {name: wilson(value, len(texts)) for name, value in recalls.items()}
    options = {"captions": len(texts)}
    return make_data_record(model, dataset.name, digest.hexdigest(), "retrieval", options, scores, {})
