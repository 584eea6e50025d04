"""The report's charts are well-formed SVG that shows the numbers it was given."""

from xml.etree import ElementTree

from stablerep.report.charts import Bar, Curve, bar_chart, embedding_map, line_chart, results_table


def widths(svg: str) -> list[float]:
    return [float(r.attrib["width"]) for r in ElementTree.fromstring(svg).iter("rect")]


def test_longer_bars_mean_higher_accuracy() -> None:
    svg = bar_chart(
        "all labels", [Bar("a", (0.84, 0.86), "x"), Bar("b", (0.70,), "x"), Bar("<c>", (0.5,), "x")]
    )
    a, b, c = widths(svg)
    assert a > b > c > 0
    assert "85.0" in svg
    assert "&lt;c&gt;" in svg


def test_a_dot_is_drawn_for_each_of_several_seeds() -> None:
    svg = bar_chart("t", [Bar("a", (0.8, 0.9, 0.7), "x"), Bar("b", (0.8,), "x")])
    assert svg.count('class="seed"') == 3


def test_a_falling_loss_goes_down_the_page_and_its_floor_is_lower() -> None:
    svg = line_chart("loss", [Curve("ours", ((0, 5.0), (10, 2.0)), "x", floor=1.1)])
    root = ElementTree.fromstring(svg)
    points = next(root.iter("polyline")).attrib["points"].split()
    first, last = (float(p.split(",")[1]) for p in (points[0], points[-1]))
    floor = next(line for line in root.iter("line") if "floor" in line.attrib["class"])
    assert first < last < float(floor.attrib["y1"])


def test_every_class_is_named_once_on_the_map() -> None:
    svg = embedding_map("m", [[0, 0], [1, 1], [2, 2]], [0, 1, 1], ["boot", "bag"])
    assert svg.count("<circle") == 3
    assert svg.count('class="mapname"') == 2


def test_the_table_gives_mean_and_spread_over_seeds() -> None:
    table = results_table({"a": {"linear": [0.8, 0.9]}}, {"a": "A & B"}, {"linear": "all labels"})
    assert "85.0" in table
    assert "± 7.1" in table
    assert "A &amp; B" in table
