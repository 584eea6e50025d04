"""Parts of the console by themselves: charts, streams shared by pages, paces, limits, numbers for people."""

import asyncio
import math
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.console import streams
from services.console.charts import Bar, Line, bar_chart, line_chart, progress_chart
from services.console.history import History, Point
from services.console.limits import Limits
from services.console.pages import ago, counted, duration, number, size
from services.console.streams import Hub, events
from stablerep.client import Counts, Job, JobState
from stablerep.errors import NotFound, Unavailable

HOSTILE = '"><script>x</script>'


def points_of(chart: str, line: int = 0) -> list[tuple[float, float]]:
    found = re.findall(r'points="([^"]*)"', chart)[line]
    return [tuple(map(float, one.split(","))) for one in found.split()]  # type: ignore[misc]


def test_a_chart_is_to_scale_and_skips_what_is_no_number() -> None:
    chart = line_chart("Loss", [Line("a", [(0, 4.0), (5, math.nan), (10, 2.0)]), Line(HOSTILE, [(0, 3.0)])])
    (x0, y0), (x1, y1) = points_of(chart)
    ((x2, y2),) = points_of(chart, 1)
    assert x0 == x2 < x1
    assert y0 < y2 < y1
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.1)
    assert "<script>" not in chart
    assert "Last: a 2" in chart
    assert line_chart("Loss", [Line("a", [])]) == ""
    assert line_chart("Loss", [Line("a", [(1, math.inf)])]) == ""


@pytest.mark.parametrize("value", [0.0, 1e-9, 3.0, -2.5, 1e7])
def test_a_chart_of_one_value_has_an_axis(value: float) -> None:
    chart = line_chart("x", [Line("a", [(1, value), (2, value)])])
    assert all(math.isfinite(part) for point in points_of(chart) for part in point)


def test_a_long_curve_keeps_its_peaks_and_its_end() -> None:
    values = [(float(n), math.sin(n / 500)) for n in range(100_000)]
    values[54_321] = (54_321.0, 9.0)
    drawn = points_of(line_chart("x", [Line("a", values)]))
    assert len(drawn) <= 402
    top = min(y for _, y in drawn)
    assert [y for _, y in drawn].count(top) == 1
    assert drawn[-1][0] == max(x for x, _ in drawn)


def test_bars_have_their_intervals_within_the_axis() -> None:
    chart = bar_chart("fashion", [Bar("a", 0.8, 0.78, 0.82), Bar(HOSTILE, 0.99, 0.9, 1.2)])
    widths = [float(one) for one in re.findall(r'<rect class="bar[^>]* width="([\d.]+)"', chart)]
    ends = [float(one) for one in re.findall(r'x2="([\d.]+)"', chart)]
    assert widths[0] < widths[1] <= ends[1] <= 560
    assert "a 80.0 % (78.0 to 82.0)" in chart
    for odd in (Bar("a", 1.0, 1.0, 1.0), Bar("a", 7.0, 6.0, 8.0), Bar("a", -3.0, -4.0, -2.0)):
        places = re.findall(r'(?:width|x1|x2)="(-?[\d.]+)"', bar_chart("odd", [odd]))
        assert all(0 <= float(place) <= 560 for place in places)
    assert "<script>" not in chart


def job(images: int, *, name: str = "jobs/a", state: JobState = JobState.RUNNING) -> Job:
    counts = Counts(10, 5, 1, 4, 0, 100, images // 4, images, 0)
    return Job(name, "a", state, {}, {}, 0, 8, 0, "", counts, {}, None, None, "")


def test_a_pace_is_that_of_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    history, now = History(), [1000.0]
    monkeypatch.setattr("services.console.history.time.time", lambda: now[0])
    assert history.images_per_second(job(0)) is None
    for seconds, images in ((0, 0), (50, 1000), (70, 1200), (100, 1500)):
        now[0] = 1000.0 + seconds
        history.note(job(images))
    assert history.images_per_second(job(1500)) == pytest.approx(1500 / 100)
    now[0] += 20
    history.note(job(1700))
    assert history.images_per_second(job(1700)) == pytest.approx(700 / 70)
    assert history.images_per_second(job(1700, state=JobState.PAUSED)) is not None
    assert history.images_per_second(job(1700, state=JobState.SUCCEEDED)) is None
    history.note(job(8))
    assert [point.images for point in history.points(job(8))] == [8]
    assert progress_chart(history.points(job(8))) == ""
    assert "Images done" in progress_chart([Point(0, 0), Point(9, 4)])


def test_a_curve_begins_with_the_job_and_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    history = History()
    monkeypatch.setattr("services.console.history.time.time", lambda: 5000.0)  # long after
    over = replace(
        job(700, state=JobState.SUCCEEDED),
        create_time=datetime.fromtimestamp(1000, UTC),
        end_time=datetime.fromtimestamp(1700, UTC),
    )
    history.note(over)
    assert history.points(over) == [Point(1000, 0), Point(1700, 700)]
    running = replace(over, name="jobs/other", dataset="other", state=JobState.RUNNING, end_time=None)
    history.note(running)
    assert history.points(running) == [Point(1000, 0), Point(5000, 700)]
    waiting = replace(job(0, name="jobs/waiting"), create_time=over.create_time)
    history.note(waiting)
    assert history.points(waiting) == [Point(1000, 0), Point(5000, 0)]


def test_a_history_stays_small() -> None:
    history = History()
    for images in range(5000):
        history.note(job(images))
    points = [point.images for point in history.points(job(0))]
    assert len(points) <= 1000
    assert (points[0], points[-1]) == (0, 4999)
    assert points == sorted(points)


def test_limits_count_each_visitor_and_kind_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    limits, now = Limits(2, 60), [0.0]
    monkeypatch.setattr("services.console.limits.time.monotonic", lambda: now[0])
    for kind, who in (("preview", "a"), ("preview", "a"), ("upload", "a"), ("preview", "b")):
        limits.check(kind, who)
    with pytest.raises(Unavailable, match="60 s"):
        limits.check("preview", "a")
    now[0] = 61
    limits.check("preview", "a")


def test_pages_that_follow_the_same_share_one_look() -> None:
    asked = 0

    async def source() -> AsyncIterator[int]:
        nonlocal asked
        asked += 1
        for value in range(3):
            yield value
            await asyncio.sleep(0.05)

    async def follow(hub: Hub) -> list[int]:
        return [value async for value in hub.follow("jobs", source)]

    async def both() -> tuple[list[int], list[int]]:
        hub = Hub()
        one, two = await asyncio.gather(follow(hub), follow(hub))
        assert hub._channels == {}
        return one, two

    one, two = asyncio.run(both())
    assert one == two == [0, 1, 2]
    assert asked == 1


def test_a_source_that_fails_is_asked_again_and_one_that_is_refused_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "AGAIN_SECONDS", 0.01)
    asked = 0

    async def source() -> AsyncIterator[int]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise Unavailable("gone")
        yield 7
        await asyncio.sleep(0.05)
        raise NotFound("no such job")

    async def read() -> list[str]:
        values = Hub().follow("jobs", source)
        stream = events(values, lambda value: {"jobs": f"<b>{value}</b>"})
        return [str(part) async for part in stream.body_iterator]

    text = "".join(asyncio.run(read()))
    assert text.index("gone") < text.index("<b>7</b>") < text.index("no such job")
    assert text.rstrip().endswith("event: over\ndata: over")
    assert asked == 2


def test_a_stream_that_says_nothing_new_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ALIVE_SECONDS", 0.02)
    made = []

    async def source() -> AsyncIterator[list[int]]:
        for _ in range(20):
            yield [1]
            await asyncio.sleep(0.01)

    async def read() -> str:
        stream = events(
            Hub().follow("jobs", source), lambda value: made.append(value) or {"jobs": "<b>1</b>"}
        )
        return "".join([str(part) async for part in stream.body_iterator])

    text = asyncio.run(read())
    assert text.count("<b>1</b>") == 1
    assert text.count(": nothing new") >= 3
    assert len(made) == 1


def test_a_reader_that_leaves_ends_the_look_when_it_was_the_last() -> None:
    ended = []

    async def source() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await asyncio.sleep(0.01)
        finally:
            ended.append(True)

    async def read() -> None:
        hub = Hub()
        values = hub.follow("jobs", source)
        assert await anext(values) == 1
        await values.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0.05)
        assert hub._channels == {}

    asyncio.run(read())
    assert ended == [True]


def test_numbers_are_written_for_people() -> None:
    assert [duration(s) for s in (0, 59.6, 61, 3600, 90061)] == [
        "0 s",
        "1 min 0 s",
        "1 min 1 s",
        "1 h",
        "1 d 1 h",
    ]
    assert duration(None) == ""
    assert (number(1234567), number(None), number(1.25, 1)) == ("1,234,567", "", "1.2")
    assert (counted(1, "shard"), counted(0, "shard"), counted(1234, "job")) == (
        "1 shard",
        "0 shards",
        "1,234 jobs",
    )
    assert [size(n) for n in (0, 999, 1500, 2.5e12)] == ["0 bytes", "999 bytes", "1.5 kB", "2.5 TB"]
    now = datetime.now(UTC)
    assert ago(now - timedelta(minutes=5, seconds=1)) == "5 min 1 s ago"
    assert ago(now + timedelta(hours=2, seconds=1)).startswith("in 2 h")
