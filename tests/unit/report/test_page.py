"""The report says what happened, whichever way it fell."""

import pytest

from stablerep.report.page import has_learnt, headline


def report(ours: float) -> dict:
    found = {"stablerep": ours, "simclr": 0.5, "random": 0.6, "pixels": 0.7}
    probe = {row: {"few": [value]} for row, value in found.items()}
    return {"probe": probe, "training": {"steps": 1200}}


@pytest.mark.parametrize("ours", [0.55, 0.6])
def test_an_encoder_no_better_than_random_weights_has_not_learnt(ours):
    assert not has_learnt(report(ours))
    told = headline(report(ours))
    assert told.startswith("1,200 steps were too few to learn from: ")
    assert f"{100 * ours:.1f} % of real photographs, its random initialisation 60.0 %" in told


def test_the_result_is_the_headline():
    assert has_learnt(report(0.61))
    assert "61.0 % with 10 labels a class (SimCLR on the same images 50.0 %" in headline(report(0.61))
