"""Metrics of the transfer tables against scikit-learn and against loops."""

import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from stablerep.evaluation.metrics import map_11_points, mean_per_class, top_1
from stablerep.evaluation.probes.linear import STRENGTHS, linear_probe, multi_label_probe
from stablerep.evaluation.records import by_bootstrap


@pytest.fixture
def scores() -> torch.Tensor:
    return torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(0))


def test_top_1_and_mean_per_class_are_scikit_learns(scores):
    labels = torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(1)).clamp(max=2)
    for number in range(3):
        predicted = scores[number].argmax(0)
        assert top_1(scores, labels)[number] == pytest.approx(accuracy_score(labels, predicted))
        with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
            expected = balanced_accuracy_score(labels, predicted)
        assert mean_per_class(scores, labels)[number] == pytest.approx(expected)


def test_map_is_that_of_a_loop(scores):
    labels = (torch.rand(4, 50, generator=torch.Generator().manual_seed(2)) < 0.3).long()
    labels[3] = 0  # a class that does not occur
    for number in range(3):
        averages = []
        for k in range(3):
            order = sorted(range(50), key=lambda n: -float(scores[number, k, n]))
            hits, pairs = 0, []
            for rank, place in enumerate(order, start=1):
                hits += int(labels[k, place])
                pairs.append((hits / int(labels[k].sum()), hits / rank))
            points = [
                max((precision for recall, precision in pairs if recall >= t / 10 - 1e-12), default=0.0)
                for t in range(11)
            ]
            averages.append(sum(points) / 11)
        assert float(map_11_points(scores, labels)[number]) == pytest.approx(sum(averages) / 3, abs=1e-12)


def separable(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    labels = torch.arange(60) % classes
    return torch.nn.functional.one_hot(labels, classes) * 4.0 + torch.randn(
        60, classes, generator=random
    ), labels


def test_the_metric_judges_choice_and_test():
    features, labels = separable(3)
    halves = (features[:30], labels[:30], features[30:], labels[30:], features, labels)
    result = linear_probe(*halves, metric=mean_per_class)
    assert result.accuracy == pytest.approx(float(mean_per_class(result.scores, labels)))
    assert result.accuracy > 0.9


def test_classes_are_told_by_themselves_where_there_are_several():
    features, labels = separable(3)
    several = torch.nn.functional.one_hot(labels, 3)
    several[::2, 0] = 1  # each second one is of the first class as well
    marked = torch.cat([features, several[:, :1] * 3.0], dim=1)
    halves = (marked[:30], several[:30], marked[30:], several[30:], marked, several)
    result = multi_label_probe(*halves, strengths=STRENGTHS[::5])
    assert result.accuracy > 0.95
    assert result.scores.shape == (3, 60)


def test_the_bootstraps_interval_narrows_with_photographs():
    random = torch.Generator().manual_seed(4)
    widths = []
    for count in (50, 5000):
        labels = torch.randint(0, 2, (count,), generator=random)
        noisy = torch.nn.functional.one_hot(labels, 2).T + torch.randn(2, count, generator=random)
        value = float(mean_per_class(noisy, labels))
        score = by_bootstrap(value, mean_per_class, noisy, labels)
        assert score.low < value < score.high
        widths.append(score.high - score.low)
    assert widths[1] < widths[0] / 5
