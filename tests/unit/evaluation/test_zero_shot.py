"""Zero-shot and retrieval against hand-written matrices of a toy pair of towers."""

import pytest
import torch

from stablerep.evaluation.probes.zero_shot import class_directions, retrieval_recalls, zero_shot_accuracy

WORDS = {"red": 0, "blue": 1, "shoe": 2, "bag": 3}


def encode(texts) -> torch.Tensor:
    """A text is the sum of its words' axes, times its length: norms are not to matter."""
    rows = torch.zeros(len(texts), 4, dtype=torch.float64)
    for row, text in zip(rows, texts, strict=True):
        for word in text.split():
            if word in WORDS:
                row[WORDS[word]] += 1
        row *= len(text)
    return rows


def test_directions_are_the_means_of_unit_prompts():
    templates = (lambda name: f"{name}", lambda name: f"red {name}")
    found = class_directions(encode, ["shoe", "bag"], templates)
    half = 0.5**0.5
    shoe = (torch.tensor([0, 0, 1, 0.0]) + torch.tensor([half, 0, half, 0])) / 2
    bag = (torch.tensor([0, 0, 0, 1.0]) + torch.tensor([half, 0, 0, half])) / 2
    expected = torch.stack([shoe / shoe.norm(), bag / bag.norm()]).double()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_the_nearest_class_is_named():
    directions = torch.eye(3, dtype=torch.float64)
    images = torch.tensor([[9, 1, 0], [0, 2, 1], [0, 5, 4], [1, 0, 3.0]], dtype=torch.float64)
    assert zero_shot_accuracy(images, torch.tensor([0, 1, 2, 2]), directions) == pytest.approx(0.75)


def test_recalls_are_those_of_sorting_by_hand():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(20, 5, dtype=torch.float64, generator=generator)
    texts = torch.randn(8, 5, dtype=torch.float64, generator=generator)
    captions = torch.randint(0, 7, (20,), generator=generator)  # text 7 has no image
    x = images / images.norm(dim=1, keepdim=True)
    y = texts / texts.norm(dim=1, keepdim=True)
    found = retrieval_recalls(images, captions, texts, ranks=(1, 3))
    for k in (1, 3):
        hits = [int(captions[i]) in (x[i] @ y.T).argsort(descending=True)[:k].tolist() for i in range(20)]
        assert found[f"image_to_text@{k}"] == pytest.approx(sum(hits) / 20)
        asked = sorted(set(captions.tolist()))
        hits = [
            any(int(captions[i]) == c for i in (x @ y[c]).argsort(descending=True)[:k].tolist())
            for c in asked
        ]
        assert found[f"text_to_image@{k}"] == pytest.approx(sum(hits) / len(asked))
