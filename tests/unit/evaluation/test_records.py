"""Records of probes: intervals against scipy, names, and a comparison that refuses unlike ones."""

import numpy as np
import pytest
from scipy.stats import binomtest

from stablerep.errors import InvalidInput, TornObject
from stablerep.evaluation.datasets.photographs import load_photographs
from stablerep.evaluation.feature_sets import FeatureSet
from stablerep.evaluation.protocols import ProbeSettings, measure
from stablerep.evaluation.records import digest_of, over_draws, wilson
from stablerep.runs.probe_records import compare, parse_record

SETTINGS = {"seed": 0, "few_labels": 5, "draws": 3, "neighbours": 7}


@pytest.fixture(scope="module")
def digits():
    return load_photographs("digits").subset(train=300, test=100)


@pytest.fixture(scope="module")
def record(digits):
    return measure("frozen", FeatureSet("pixels", digits), "pixels", ProbeSettings(**SETTINGS))


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (37, 50), (50, 50), (7261, 10_000)])
def test_the_interval_of_an_accuracy_is_wilsons(hits, count):
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    found = wilson(hits / count, count)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_over_draws_covers_the_mean_in_19_of_20():
    random, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        score = over_draws(random.normal(0.6, 0.05, 600).tolist())
        inside += score.low <= 0.6 <= score.high
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)


def test_a_record_survives_its_file_and_says_how_it_was_measured(record, digits):
    again = parse_record(record.model_dump_json().encode(), "file")
    assert again.model_dump_json() == record.model_dump_json()
    assert record.data_digest == digest_of(digits)
    assert record.settings == SETTINGS
    assert {"torch", "timm"} <= set(record.versions)
    assert set(record.scores) == {"linear", "few", "knn"}
    assert record.name.startswith("digits-frozen-")
    with pytest.raises(TornObject, match="no record"):
        parse_record(b"{}", "file")


def test_records_are_compared_the_best_first(record):
    better = record.model_copy(
        update={"model": "better", "scores": {**record.scores, "linear": wilson(0.999, 100)}}
    )
    lines = compare([record, better]).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["better", "pixels"]
    assert "99.9" in lines[1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data_digest": "other"}, "other photographs"),
        ({"protocol": "stablerep"}, "protocol is frozen and stablerep"),
        ({"settings": {**SETTINGS, "few_labels": 6}}, r"settings\.few_labels is 5 and 6"),
    ],
)
def test_unlike_records_are_not_ranked(record, change, named):
    with pytest.raises(InvalidInput, match=named):
        compare([record, record.model_copy(update={"model": "other", **change})])


def test_another_order_of_photographs_is_another_data_set(digits):
    assert digest_of(digits) != digest_of(digits.subset(train=290, test=100))
