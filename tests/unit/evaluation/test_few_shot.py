"""Few labels: draws that are the same for every row, balanced, and apart from the validation photographs."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stablerep.errors import InvalidInput
from stablerep.evaluation.datasets.photographs import load_photographs
from stablerep.evaluation.features import extract_features
from stablerep.evaluation.probes.few_shot import few_shot
from stablerep.evaluation.probes.linear import Standardiser
from stablerep.evaluation.split import Split, draw_few, split_validation

LABELS = np.random.default_rng(5).permutation(np.repeat(np.arange(10), 60))


def draws_of(seed: int) -> tuple[Split, np.ndarray]:
    split = split_validation(LABELS, seed=seed)
    return split, draw_few(LABELS, split.train, each=10, draws=20, seed=seed)


def test_draws_and_split_depend_on_the_seed_alone() -> None:
    first_split, first = draws_of(3)
    np.random.seed(1)
    torch.manual_seed(1)
    second_split, second = draws_of(3)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first_split.validation, second_split.validation)
    assert not np.array_equal(first, draws_of(4)[1])


def test_every_draw_has_ten_different_photographs_of_each_class() -> None:
    _, draws = draws_of(0)
    assert draws.shape == (20, 100)
    for draw in draws:
        assert np.bincount(LABELS[draw]).tolist() == [10] * 10
        assert len(set(draw.tolist())) == 100
    assert len({tuple(sorted(draw)) for draw in draws.tolist()}) == 20


def test_no_draw_touches_a_validation_photograph() -> None:
    split, draws = draws_of(0)
    assert not np.isin(draws, split.validation).any()
    assert np.isin(draws, split.train).all()


def test_split_parts_are_disjoint_cover_everything_and_keep_the_share_of_each_class() -> None:
    split = split_validation(LABELS, share=0.2, seed=0)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([split.train, split.validation])), np.arange(len(LABELS))
    )
    assert np.bincount(LABELS[split.validation]).tolist() == [12] * 10


def test_a_class_with_too_few_photographs_is_refused() -> None:
    with pytest.raises(InvalidInput, match="50 labels a class"):
        draw_few(LABELS, split_validation(LABELS).train, each=50, draws=1)
    with pytest.raises(InvalidInput, match="too few to set"):
        split_validation(np.array([0, 0, 0, 0, 0, 1]))


def test_accuracy_of_each_draw_is_that_of_scikit_learn() -> None:
    data = load_photographs("digits")
    features, test = (
        extract_features("pixels", data.train_images),
        extract_features("pixels", data.test_images),
    )
    labels, test_labels = torch.from_numpy(data.train_labels), torch.from_numpy(data.test_labels)
    split = split_validation(data.train_labels)
    draws = torch.from_numpy(draw_few(data.train_labels, split.train, each=10, draws=4))
    validation = torch.from_numpy(split.validation)
    result = few_shot(features, labels, draws, features[validation], labels[validation], test, test_labels)
    standardise = Standardiser.of(features)
    for draw, accuracy in zip(draws, result.accuracies, strict=True):
        theirs = LogisticRegression(C=result.strength, tol=1e-6, max_iter=2000).fit(
            standardise(features)[draw].numpy(), labels[draw].numpy()
        )
        expected = theirs.score(standardise(test).numpy(), test_labels.numpy())
        assert accuracy == pytest.approx(expected, abs=0.004)
    assert result.accuracy == pytest.approx(np.mean(result.accuracies))


def test_strength_is_chosen_without_the_test_labels() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 10
    features = torch.nn.functional.one_hot(labels).float() + 0.5 * torch.randn(200, 10, generator=random)
    draws = torch.arange(100).view(1, 100)
    results = [
        few_shot(features, labels, draws, features[100:], labels[100:], features, wrong)
        for wrong in (labels, labels.flip(0))
    ]
    assert results[0].strength == results[1].strength
    assert results[0].accuracy != results[1].accuracy
