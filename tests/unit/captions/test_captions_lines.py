"""Captions from plain text, CSV and TSV, held against Python's own `csv` where it can serve as reference."""

import csv
import io
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stablerep.captions import Caption, CaptionReport, Source, read_captions
from stablerep.errors import InvalidInput


def source(name: str, data: bytes | str) -> Source:
    content = data if isinstance(data, bytes) else data.encode()
    return Source(name, len(content), lambda: io.BytesIO(content))


def read(name: str, data: bytes | str, **options: object) -> tuple[list[Caption], dict[str, int]]:
    """Captions, and the counters that are not zero."""
    report = CaptionReport()
    captions = list(read_captions(source(name, data), report=report, **options))  # type: ignore[arg-type]
    return captions, {name: count for name, count in asdict(report).items() if count}


def test_a_line_is_a_caption_and_unusable_lines_consume_ids() -> None:
    data = b"one\n\n  two\t words \nbad \xff\n" + b"x" * 1000 + b"\n" + b"x" * 1001 + b"\n   \nlast"
    captions, counts = read("a.txt", data)
    assert captions == [(0, "one"), (2, "two words"), (4, "x" * 1000), (7, "last")]
    assert counts == {"lines": 8, "captions": 4, "empty": 2, "bad_encoding": 1, "too_long": 1}


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv"])
def test_line_ends_of_windows_and_a_byte_order_mark_are_no_part_of_a_caption(name: str) -> None:
    assert read(name, b"\xef\xbb\xbfone\r\ntwo\r\n")[0] == [(0, "one"), (1, "two")]
    assert read(name, b"\xef\xbb\xbfcaption\r\ntwo\r\n", column=None)[0][-1].text == "two"


def test_length_is_counted_in_characters_not_bytes() -> None:
    assert read("a.txt", "靴" * 1000 + "\n" + "靴" * 1001 + "\n")[1] == {
        "lines": 2,
        "captions": 1,
        "too_long": 1,
    }


def test_control_characters_do_not_come_through() -> None:
    assert read("a.txt", "a\0b\x07 c\x85d\u2028e\u00a0f\n")[0] == [(0, "a b c d e f")]


def test_a_line_of_many_megabytes_is_passed_over_without_being_held() -> None:
    data = b"x" * (24 << 20) + b"\nshort\n"
    tracemalloc.start()
    try:
        captions, counts = read("a.txt", data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert captions == [(1, "short")]
    assert counts == {"lines": 2, "captions": 1, "too_long": 1}
    assert peak < 8 << 20


@pytest.mark.parametrize("length", range((1 << 20) - 3, (1 << 20) + 4))
def test_no_line_end_is_lost_around_the_limit_of_a_line(length: int) -> None:
    captions, counts = read("a.txt", b"x" * length + b"\nnext\n")
    assert captions == [(1, "next")]
    assert counts["too_long"] == 1


def test_cc3m_and_cc12m_are_told_apart_by_where_the_urls_are() -> None:
    cc3m = 'a "lone quote dog\thttp://a.b/1.jpg\na cat\thttps://a.b/2?x=1&y=\n'
    cc12m = 'http://a.b/1.jpg\ta "lone quote dog\nhttps://a.b/2?x=1&y=\ta cat\n'
    assert (
        read("Train_GCC-training.tsv", cc3m)[0]
        == read("cc12m.tsv", cc12m)[0]
        == [(0, 'a "lone quote dog'), (1, "a cat")]
    )


def test_a_few_rows_without_a_url_do_not_turn_the_columns_around() -> None:
    rows = [
        "caption 0\thttp://a.b/0",
        "see http://x\tnot a url",
        *(f"caption {n}\thttp://a.b/{n}" for n in range(10)),
        "http://y\thttp://z",
    ]
    captions, counts = read("a.tsv", "\n".join(rows))
    assert captions[:3] == [(0, "caption 0"), (1, "see http://x"), (2, "caption 0")]
    assert counts == {"lines": 13, "captions": 13}


@pytest.mark.parametrize("header", ["caption", "Caption", "TEXT", "text", "title", "raw_caption"])
@pytest.mark.parametrize(("name", "comma"), [("a.csv", ","), ("a.tsv", "\t")])
def test_a_header_with_a_usual_name_is_no_record(header: str, name: str, comma: str) -> None:
    rows = [["id", header, "url"], ["1", "a shoe", "http://x"], ["2", "a boot", "http://y"]]
    assert read(name, "\n".join(comma.join(row) for row in rows))[0] == [(0, "a shoe"), (1, "a boot")]


def test_the_best_of_several_usual_names_is_taken() -> None:
    assert read("a.csv", "title,raw_caption,caption\n1,2,3\n")[0] == [(0, "3")]


def test_a_header_of_unusual_names_over_urls_is_no_record() -> None:
    assert read("a.tsv", "link\tphrase\nhttp://x\ta shoe\nhttp://y\ta boot\n")[0] == [
        (0, "a shoe"),
        (1, "a boot"),
    ]


def test_a_column_is_taken_by_name_or_by_number() -> None:
    data = "id,phrase,caption\n1,a shoe,x\n2,a boot,y\n"
    assert read("a.csv", data, column="phrase")[0] == [(0, "a shoe"), (1, "a boot")]
    for rows in ("1,a shoe,x\n2,a boot,y\n", "id,caption,y\n1,a shoe,x\n2,a boot,y\n"):
        assert read("a.csv", rows, column="1")[0] == [(0, "a shoe"), (1, "a boot")]


@pytest.mark.parametrize(
    ("data", "column"),
    [("id,phrase\n1,a shoe\n", "words"), ("1,a shoe,x\n", None), ("a shoe,a boot\n", None), ("1,2\n", "7")],
)
def test_a_column_that_cannot_be_found_is_an_error_that_shows_the_first_row(
    data: str, column: str | None
) -> None:
    with pytest.raises(InvalidInput) as caught:
        read("a.csv", data, column=column)
    assert caught.value.field == "column"


def test_plain_text_has_no_columns() -> None:
    with pytest.raises(InvalidInput) as caught:
        read("a.txt", "a\n", column="caption")
    assert caught.value.field == "column"


def test_rows_that_are_short_or_badly_encoded_are_counted() -> None:
    data = b"id,caption\n1,a shoe\n2\n,\n\n3,\xff\n4,a boot,more\n"
    captions, counts = read("a.csv", data)
    assert captions == [(0, "a shoe"), (5, "a boot,more")]
    assert counts == {"lines": 6, "captions": 2, "missing_column": 1, "empty": 2, "bad_encoding": 1}


def test_a_quoted_cell_over_several_lines_is_one_record_and_one_line_of_text() -> None:
    data = 'caption,n\n"first\nsecond, ""quoted""\r\n third",1\nnext,2\n'
    assert read("a.csv", data)[0] == [(0, 'first second, "quoted" third'), (1, "next")]


INVISIBLE = {0xAD, 0x180E, 0x200B, 0x200E, 0x200F, 0xFEFF, *range(0x202A, 0x202F), *range(0xFFF9, 0xFFFC)}
INVISIBLE |= {*range(0x2060, 0x2065), *range(0x2066, 0x206A)}
BLANK = {0x115F, 0x1160, 0x200C, 0x200D, 0x2800, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10)}


def normalised(text: str) -> str:
    spaced = " ".join("".join(" " if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in text).split())
    line = " ".join("".join(c for c in spaced if ord(c) not in INVISIBLE).split())
    return line if any(ord(c) not in BLANK and not c.isspace() for c in line) else ""


def expected(texts: Sequence[str]) -> list[tuple[int, str]]:
    lines = ((number, normalised(text)) for number, text in enumerate(texts))
    return [(number, line) for number, line in lines if 0 < len(line) <= 1000]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=30), st.sampled_from(["\n", "\r\n"]))
def test_whatever_pythons_csv_writes_is_read_back(rows: list[tuple[str, str]], end: str) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator=end).writerows([("number", "caption"), *rows])
    wanted = expected([caption for _, caption in rows])
    if not wanted:
        with pytest.raises(InvalidInput):
            read("a.csv", buffer.getvalue())
        return
    captions, counts = read("a.csv", buffer.getvalue())
    assert captions == wanted
    assert counts["lines"] == len(rows)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=40)))
def test_plain_text_is_read_back_line_by_line(texts: list[str]) -> None:
    wanted = expected(texts)
    data = "\ufeff" + "".join(text + "\n" for text in texts)
    if not wanted:
        with pytest.raises(InvalidInput):
            read("a.txt", data)
        return
    captions, counts = read("a.txt", data)
    assert captions == wanted
    assert counts["lines"] == len(texts)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=400), st.sampled_from(["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"])
)
def test_any_bytes_give_captions_or_an_error_of_ours_and_every_record_is_counted_once(
    data: bytes, name: str
) -> None:
    report = CaptionReport()
    try:
        captions = list(read_captions(source(name, data), report=report))
    except InvalidInput:
        return
    counts = asdict(report)
    assert counts.pop("lines") == sum(counts.values())
    assert report.captions == len(captions)
    for id_, text in captions:
        assert 0 <= id_ < report.lines
        assert text == normalised(text)
        assert 0 < len(text.encode()) <= 4000


def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    from stablerep.captions import open_source

    path = tmp_path / "large.csv"
    with path.open("w") as file:
        file.write("caption,url\n")
        for number in range(150_000):
            file.write(f'"caption {number}, quoted",http://example.com/{number}.jpg\n')
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_captions(open_source(path)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 150_000
    assert peak < 2 << 20 < path.stat().st_size
