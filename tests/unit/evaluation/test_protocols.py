"""Protocols on features whose accuracy is known, and against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

from stablerep.config.encoder import EncoderSpec
from stablerep.errors import InvalidInput
from stablerep.evaluation.datasets.photographs import load_photographs
from stablerep.evaluation.feature_sets import FeatureSet, digest_of_encoder
from stablerep.evaluation.features import prepare
from stablerep.evaluation.probes.episodes import few_shot_episodes
from stablerep.evaluation.protocols import PROTOCOLS, ProbeSettings, measure
from stablerep.evaluation.records import over_draws
from stablerep.models.frozen import FrozenEncoder
from stablerep.models.load import random_encoder
from stablerep.storage import open_store


def gaussians(distance: float, each: int = 60, classes: int = 8, width: int = 6) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(classes, width, generator=generator) * distance
    labels = torch.arange(classes).repeat_interleave(each)
    return means[labels] + torch.randn(len(labels), width, generator=generator), labels


def test_episodes_of_classes_far_apart_are_all_right_and_of_equal_ones_by_chance():
    right = few_shot_episodes(*gaussians(100.0), episodes=50)
    assert right.accuracy == 1.0
    chance = few_shot_episodes(*gaussians(0.0), episodes=300)
    assert chance.accuracy == pytest.approx(0.2, abs=0.01)
    assert len(set(chance.accuracies)) > 10


def test_an_episode_is_scikit_learns_nearest_centroid():
    features, labels = gaussians(0.8)
    found = few_shot_episodes(features, labels, ways=3, shots=4, queries=7, episodes=20, seed=5)
    random = np.random.default_rng([5, 2])
    for accuracy in found.accuracies:
        chosen = random.choice(8, 3, replace=False)
        rows = np.stack([random.choice(np.flatnonzero(labels == one), 11, replace=False) for one in chosen])
        model = NearestCentroid().fit(features[rows[:, :4].ravel()].numpy(), np.repeat([0, 1, 2], 4))
        score = model.score(features[rows[:, 4:].ravel()].numpy(), np.repeat([0, 1, 2], 7))
        assert accuracy == pytest.approx(score, abs=1e-9)


def test_too_few_photographs_for_an_episode_are_named():
    with pytest.raises(InvalidInput, match="5 classes of 20 photographs; 0 have"):
        few_shot_episodes(*gaussians(1.0, each=19))


def test_the_interval_of_episodes_covers_the_long_runs_mean():
    features, labels = gaussians(0.7, each=100)
    truth = few_shot_episodes(features, labels, episodes=6000, seed=99).accuracy
    covered = 0
    for seed in range(20):
        score = over_draws(few_shot_episodes(features, labels, episodes=200, seed=seed).accuracies)
        covered += score.low <= truth <= score.high
    assert covered >= 16


def test_logreg_is_scikit_learns_on_the_same_features():
    data = load_photographs("digits").subset(train=500, test=300)
    record = measure("logreg", FeatureSet("pixels", data), "pixels", ProbeSettings())
    strength = record.details["strength"]
    train, test = (x.reshape(len(x), -1) / 255 for x in (data.train_images, data.test_images))
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(C=strength, max_iter=5000, tol=1e-8).fit(
        scaler.transform(train), data.train_labels
    )
    expected = model.score(scaler.transform(test), data.test_labels)
    assert record.scores["linear"].value == pytest.approx(expected, abs=0.001)
    assert record.settings["strengths"] == 45


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "dinov3-linear"])
def test_every_protocol_makes_a_record(protocol):
    data = load_photographs("digits").subset(train=300, test=300)
    settings = ProbeSettings(few_labels=3, draws=2, ways=3, shots=2, queries=5, episodes=5)
    record = measure(protocol, FeatureSet("pixels", data), "pixels", settings)
    assert record.protocol == protocol
    for score in record.scores.values():
        assert 0.5 < score.value <= 1
        assert score.low <= score.value <= score.high


def small_vit() -> FrozenEncoder:
    kwargs = {"patch_size": 7, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return random_encoder(EncoderSpec(name="vit_tiny_patch16_224", kwargs=kwargs, image_size=28), seed=0)


def test_dinov3s_probe_sees_class_token_and_mean_patch_token():
    data = load_photographs("digits").subset(train=300, test=300)
    features = FeatureSet(small_vit(), data)
    train, test = features.of("class+patches")
    inputs = prepare(data.train_images[:5], features.encoder)
    with torch.inference_mode():
        tokens = features.encoder.model.forward_features(inputs)
    expected = torch.cat([tokens[:, 0], tokens[:, 1:].sum(dim=1) / 16], dim=1)
    assert torch.allclose(train[:5], expected, atol=1e-5)
    assert test.shape == (300, 48)
    record = measure("dinov3-linear", features, "random", ProbeSettings())
    assert record.feature == "class token and mean patch token"
    assert record.scores["linear"].value > 0.4
    assert record.settings["steps"] == 12_500
    assert record.details["batch_norm"] is False
    assert len(record.details["validation"][0]) == 13


def test_dinov3s_probe_is_for_encoders_with_a_class_token():
    data = load_photographs("digits").subset(train=100, test=100)
    small = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    resnet = random_encoder(EncoderSpec(name="resnet18", kwargs=small, image_size=28), seed=0)
    for encoder, why in ((resnet, "wants a ViT with a class token, not ResNet"), ("pixels", "no tokens")):
        with pytest.raises(InvalidInput, match=why):
            measure("dinov3-linear", FeatureSet(encoder, data), "x", ProbeSettings())


def test_features_are_kept_for_the_same_encoder_and_photographs_alone(tmp_path, monkeypatch):
    data, cache = load_photographs("digits").subset(train=100, test=100), open_store(tmp_path)
    encoder = small_vit()
    first = FeatureSet(encoder, data, cache=cache).of()
    assert len(list(cache.list("features/"))) == 1
    monkeypatch.setattr(encoder.model, "forward", None)  # it is not run again
    again = FeatureSet(encoder, data, cache=cache).of()
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert FeatureSet("pixels", data, cache=cache).of()[0].shape == (100, 64)
    other = small_vit()
    before = digest_of_encoder(other)
    assert before == digest_of_encoder(encoder)
    with torch.no_grad():
        other.model.norm.bias += 1
    assert digest_of_encoder(other) != before
    assert not torch.equal(FeatureSet(other, data, cache=cache).of()[0], first[0])
    fewer = load_photographs("digits").subset(train=90, test=100)
    assert FeatureSet(small_vit(), fewer, cache=cache).of()[0].shape == (90, 24)
    assert len(list(cache.list("features/"))) == 4
