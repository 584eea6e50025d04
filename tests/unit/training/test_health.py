"""Warnings of a run that learns nothing: once each, and again after the trouble has passed."""

from stablerep.training.health import Health


def texts(health: Health, pairs: list[tuple[float, float]]) -> list[str]:
    return [text for step, (rank, norm) in enumerate(pairs) for text in health.look(step, rank, norm)]


def test_a_healthy_run_says_nothing():
    assert texts(Health(), [(9.0, 90.0 / (1 + step)) for step in range(60)]) == []


def test_a_collapse_is_said_once_and_again_when_it_comes_back():
    found = texts(Health(), [(9, 1), (1.2, 1), (1.1, 1), (5, 1), (1.5, 1)])
    assert [text.split(":")[0] for text in found] == ["step 1", "step 4"]
    assert "effective rank 1.2" in found[0]


def test_an_explosion_is_told_from_what_is_usual():
    found = texts(Health(), [(9, 1)] * 5 + [(9, 1000)] * 3 + [(9, 2)])
    assert len(found) == 1
    assert "1e+03, usually 1" in found[0]


def test_a_vanished_gradient_is_said():
    found = texts(Health(), [(9, 20), (9, 10), (9, 8), (9, 0.001)])
    assert len(found) == 1
    assert "vanished (norm 0.001, at most 20 before)" in found[0]
