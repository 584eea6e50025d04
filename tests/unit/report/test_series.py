"""The chart of a sweep: where points are, what is joined, and that hostile names are only text."""

import re
import xml.etree.ElementTree as ET

import pytest

from stablerep.report.series import series_chart

SVG = "{http://www.w3.org/2000/svg}"
PANEL = {
    "10 labels": {
        "ours": {"1": [0.5, 0.7], "2": [0.8], "8": []},
        "theirs": {"1": [0.4], "2": [0.5], "8": [0.6]},
    }
}


def drawn(**options) -> ET.Element:
    return ET.fromstring(series_chart("A title", "guidance", ["1", "2", "8"], PANEL, **options))


def means(root: ET.Element) -> dict[str, tuple[float, float]]:
    found = {}
    for circle in root.iter(f"{SVG}circle"):
        title = circle.find(f"{SVG}title")
        if title is not None:
            found[title.text] = (float(circle.get("cx")), float(circle.get("cy")))
    return found


def test_points_stand_at_their_numbers_and_higher_accuracies_are_higher():
    at = means(drawn(places=[1, 2, 8]))
    assert set(at) == {
        "ours, 1: 50.00 %, 70.00 %",
        "ours, 2: 80.00 %",
        "theirs, 1: 40.00 %",
        "theirs, 2: 50.00 %",
        "theirs, 8: 60.00 %",
    }
    one, two, eight = (at[f"theirs, {n}: {v}0.00 %"][0] for n, v in ((1, 4), (2, 5), (8, 6)))
    assert (eight - one) / (two - one) == pytest.approx(7, abs=0.02)
    assert at["ours, 2: 80.00 %"][1] < at["ours, 1: 50.00 %, 70.00 %"][1] < at["theirs, 1: 40.00 %"][1]


def test_a_logarithmic_axis():
    at = means(drawn(places=[1, 2, 8], logarithmic=True))
    one, two, eight = (at[f"theirs, {n}: {v}0.00 %"][0] for n, v in ((1, 4), (2, 5), (8, 6)))
    assert (eight - one) / (two - one) == pytest.approx(3, abs=0.02)


def test_numbers_are_joined_and_names_are_not():
    assert len(list(drawn(places=[1, 2, 8]).iter(f"{SVG}polyline"))) == 2
    assert list(drawn().iter(f"{SVG}polyline")) == []


def test_lines_at_one_name_do_not_hide_each_other():
    at = means(drawn())
    assert at["ours, 2: 80.00 %"][0] != at["theirs, 2: 50.00 %"][0]


def test_the_spread_is_one_standard_deviation():
    root = drawn(places=[1, 2, 8])
    whiskers = [line for line in root.iter(f"{SVG}line") if line.get("stroke")]
    assert len(whiskers) == 1
    at = means(root)
    per_point = (at["theirs, 1: 40.00 %"][1] - at["theirs, 2: 50.00 %"][1]) / 0.1
    half = abs(float(whiskers[0].get("y1")) - float(whiskers[0].get("y2"))) / 2
    assert half / per_point == pytest.approx(0.1 * 2**0.5, abs=0.005)


def test_nothing_measured_yet_is_an_empty_chart():
    empty = {"10 labels": {"ours": {}}}
    assert means(ET.fromstring(series_chart("t", "x", ["1"], empty))) == {}


def test_names_are_only_text():
    hostile = '<script>alert("1")</script>'
    text = series_chart(hostile, hostile, [hostile], {hostile: {hostile: {hostile: [0.5]}}})
    ET.fromstring(text)
    assert not re.search("<script", text)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.531, 0.722], ["50", "55", "60", "65", "70", "75"]),
        ([0.78, 0.802], ["78", "79", "80", "81"]),
        ([0.7801, 0.7802], ["78.0", "78.5"]),
        ([0.5], ["50.0", "50.5"]),
        ([0.0, 1.0], ["0", "50", "100"]),
    ],
)
def test_the_axis_has_round_numbers_around_all_values(values, ticks):
    panel = {"p": {"a": {str(n): [value] for n, value in enumerate(values)}}}
    root = ET.fromstring(series_chart("t", "x", list(map(str, range(len(values)))), panel))
    shown = [text.text for text in root.iter(f"{SVG}text") if text.get("text-anchor") == "end"]
    assert shown == ticks
