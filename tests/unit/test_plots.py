"""The figures of docs/performance.md are those of the results that are committed."""

from benchmarks.plots import OUT, bars, figures


def test_figures_are_up_to_date():
    made = dict(figures())
    there = {path.name: path.read_text(encoding="utf-8") for path in OUT.glob("*.svg")}
    assert there == made, "run python -m benchmarks.plots"


def test_a_bar_is_as_long_as_its_value():
    drawn = bars("Title", [("seconds", {"other": 4.0, "stablerep <x>": 1.0}, "{:.1f} s")], "note")
    assert 'width="440.0"' in drawn
    assert 'width="110.0"' in drawn
    assert "stablerep &lt;x&gt;" in drawn
