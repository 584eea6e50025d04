"""Caption files of every dialect, encoding, damage, compression and container: nothing is lost in silence.

Each file is written by a writer that knows what became of every record it wrote: captions and counted
records together are always the records.
"""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stablerep.captions import CaptionReport, Source, describe, open_source, read_captions
from stablerep.errors import InvalidInput

WORDS = st.sampled_from(["red", "shiny", "shoe", "靴", "café", "ботинок", "5 inch", "the"])
CAPTION = st.lists(WORDS, min_size=2, max_size=6).map(" ".join)
COMMA = st.tuples(CAPTION, CAPTION).map(", ".join)
DAMAGE = ("none", "none", "none", "empty", "invisible", "too_long", "bad_encoding", "malformed")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
}


@dataclass(frozen=True)
class Record:
    """One record: its text, and the reason why it gives no caption ("" if it gives one)."""

    text: str
    flaw: str = ""


def source(name: str, data: bytes) -> Source:
    return Source(name, len(data), lambda: io.BytesIO(data))


def check(name: str, data: bytes, records: list[Record], **options: bool | str | None) -> None:
    """Reads the file and compares captions, ids and every count with what was written."""
    wanted = [(n, " ".join(record.text.split())) for n, record in enumerate(records) if not record.flaw]
    counts = Counter(record.flaw for record in records if record.flaw)
    report = CaptionReport()
    reading = read_captions(source(name, data), report=report, **options)  # type: ignore[arg-type]
    if not wanted:
        with pytest.raises(InvalidInput):
            list(reading)
        return
    assert list(reading) == wanted
    found = asdict(report)
    assert found.pop("lines") == len(records)
    assert found.pop("captions") == len(wanted)
    assert {flaw: count for flaw, count in found.items() if count} == counts


def damaged(text: str, damage: str) -> Record:
    if damage == "empty":
        return Record(" ", "empty")
    if damage == "invisible":
        return Record("\u200b\u2060 \ufeff", "empty")
    texts = {"too_long": text * 400, "bad_encoding": text + "\ue000"}
    return Record(texts.get(damage, text), damage.replace("none", ""))


RECORDS = st.lists(st.builds(damaged, CAPTION, st.sampled_from(DAMAGE)), min_size=1, max_size=12)


BAD = {"utf-8": b"\xff", "utf-16-le": b"\x00\xd8", "utf-16-be": b"\xd8\x00", "utf-32-le": b"\x00\xd8\0\0"}
"""Bytes that are no character; they stand for U+E000 in what is written."""


def encoded(lines: list[str], end: str, encoding: str) -> bytes:
    """The lines in the encoding, with a mark unless it is plain UTF-8 or says its byte order."""
    codec = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}.get(encoding, encoding)
    whole = "".join(line + end for line in lines)
    pieces = ("\ufeff" * (codec != encoding) + whole).split("\ue000")
    return BAD[codec].join(piece.encode(codec) for piece in pieces)


@settings(max_examples=120, deadline=None)
@given(
    RECORDS,
    st.sampled_from(ENCODINGS),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(sorted(PACKED)),
)
def test_plain_text(records: list[Record], encoding: str, end: str, packing: str) -> None:
    records = [record for record in records if record.flaw != "malformed"] or [Record("a shoe")]
    if encoding in ("utf-16-le", "utf-16-be") and not all(record.text.isascii() for record in records):
        encoding = "utf-8"  # without a mark, UTF-16 is known by its zeros
    data = encoded([record.text for record in records], end, encoding)
    check(f"a.txt{packing}", PACKED[packing](data), records)


TABLES = st.builds(
    dict,
    separator=st.sampled_from([",", ";", "\t", "|"]),
    name=st.sampled_from(["caption", "Caption", "captions", "Image Caption", "TEXT", "alt-text"]),
    place=st.sampled_from(["first", "last", "only"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    quoting=st.sampled_from(["all", "needed"]),
    ending=st.sampled_from([".csv", ".tsv"]),
    packing=st.sampled_from(sorted(PACKED)),
)


@settings(max_examples=250, deadline=None)
@given(
    st.lists(st.builds(damaged, CAPTION | COMMA, st.sampled_from(DAMAGE)), min_size=1, max_size=12), TABLES
)
def test_tables(records: list[Record], table: dict[str, str]) -> None:
    separator, place = table["separator"], table["place"]
    # A TSV quotes nothing, but where its header is quoted; with one column it has no other separator.
    is_tsv = table["ending"] == ".tsv" and (
        separator == "\t" or (place == "only" and table["quoting"] != "all")
    )
    quotes = not is_tsv

    def cell(text: str) -> str:
        needed = table["quoting"] == "all" or separator in text
        return '"' + text.replace('"', '""') + '"' if quotes and needed else text

    def row(text: str, other: str) -> str:
        cells = {"first": [cell(text), other], "last": [other, cell(text)], "only": [cell(text)]}[place]
        return separator.join(cells)

    lines = [row(table["name"], "link")]
    for number, record in enumerate(records):
        url = f"http://example.org/{number}"
        is_open = record.flaw == "malformed"
        lines.append(
            f'"{record.text}{separator * (place != "only")}{url}' if is_open else row(record.text, url)
        )
    if quotes or not any(record.flaw == "malformed" for record in records):
        data = encoded(lines, table["end"], table["encoding"])
        check(f"a{table['ending']}{table['packing']}", PACKED[table["packing"]](data), records)


@settings(max_examples=60, deadline=None)
@given(RECORDS, st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]), st.sampled_from(sorted(PACKED)))
def test_json_lines(records: list[Record], encoding: str, packing: str) -> None:
    def line(record: Record) -> str:
        return "{" if record.flaw == "malformed" else json.dumps({"caption": record.text}, ensure_ascii=False)

    check(f"a.jsonl{packing}", PACKED[packing](encoded(list(map(line, records)), "\n", encoding)), records)


@settings(max_examples=60, deadline=None)
@given(
    RECORDS,
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(sorted(PACKED)),
    st.sampled_from(["list", "object"]),
    st.sampled_from(["whole", "cut off", "two documents"]),
)
def test_annotations(records: list[Record], encoding: str, packing: str, shape: str, end: str) -> None:
    """A document is read whole, or fails: what follows it, or is missing from it, is never passed over."""
    values = [7 if record.flaw == "malformed" else {"caption": record.text} for record in records]
    text = json.dumps(values if shape == "list" else {"annotations": values, "n": 1}, ensure_ascii=False)
    text = {"whole": text, "cut off": text[:-1], "two documents": text + text}[end]
    name, data = f"a.json{packing}", PACKED[packing](encoded([text], "\n", encoding))
    if end == "whole":
        check(name, data, records)
        return
    with pytest.raises(InvalidInput, match="character"):
        list(read_captions(source(name, data)))


@settings(max_examples=40, deadline=None)
@given(RECORDS, st.sampled_from(["string", "large_string", "string_view", "binary", "dictionary"]))
def test_parquet(records: list[Record], kind: str) -> None:
    records = [record for record in records if record.flaw not in ("malformed", "bad_encoding")]
    records.append(Record("the last one"))
    values = [record.text for record in records]
    column = {
        "string": lambda: pa.array(values, pa.string()),
        "large_string": lambda: pa.array(values, pa.large_string()),
        "string_view": lambda: pa.array(values, pa.string_view()),
        "binary": lambda: pa.array([value.encode() for value in values], pa.binary()),
        "dictionary": lambda: pa.array(values).dictionary_encode(),
    }[kind]()
    file = io.BytesIO()
    pq.write_table(pa.table({"id": list(range(len(values))), "TEXT": column}), file)
    check("a.parquet", file.getvalue(), records)


@settings(max_examples=30, deadline=None)
@given(RECORDS, st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_webdataset(records: list[Record], encoding: str) -> None:
    records = [record for record in records if record.flaw != "malformed"] or [Record("a shoe")]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number, record in enumerate(records):
            info = tarfile.TarInfo(f"{number:05d}.txt")
            data = encoded([record.text], "\n", encoding)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    check("a.tar", file.getvalue(), records)


def test_a_quote_that_never_closes_costs_its_own_row() -> None:
    rows = [f"caption {number},http://example.org/{number}" for number in range(5000)]
    rows[9] = '"' + rows[9]
    records = [Record(f"caption {n}", "malformed" if n == 9 else "") for n in range(5000)]
    check("a.csv", "\n".join(["caption,url", *rows]).encode(), records)
    rows[3000] = 'caption 3000",http://example.org/3000'  # ends a cell, as if the quote had closed there
    records[3000] = Record('caption 3000"')
    check("a.csv", "\n".join(["caption,url", *rows]).encode(), records)


@pytest.mark.parametrize("row", ["{number},{text}", "{text},{number}", "{text},http://example.org/{number}"])
def test_two_stray_quotes_do_not_swallow_the_rows_between_them(row: str) -> None:
    texts = [f"shoe {number}" for number in range(20)]
    lines = [row.format(number=number, text=text) for number, text in enumerate(texts)]
    lines[3] = row.format(number=3, text='"boot')
    lines[12] = row.format(number=12, text='boot"')
    records = [Record(text) for text in texts]
    records[3], records[12] = Record("", "malformed"), Record('boot"')
    header = row.format(number="id", text="caption")
    check("a.csv", "\n".join([header, *lines]).encode(), records)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.json"])
@pytest.mark.parametrize("kind", ["zip", "parquet", "bzip2", "xz", "tar"])
def test_what_is_no_text_gives_no_captions(name: str, kind: str) -> None:
    lines = b"a shoe\na boot\n" * 200
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.txt", lines)  # stored: its lines are there to be read
    elif kind == "parquet":
        pq.write_table(pa.table({"caption": ["a shoe", "a boot"] * 200}), file, compression="none")
    elif kind == "tar":
        with tarfile.open(fileobj=file, mode="w") as tar:
            info = tarfile.TarInfo("a.txt")
            info.size = len(lines)
            tar.addfile(info, io.BytesIO(lines))
    else:
        file.write({"bzip2": bz2.compress, "xz": lzma.compress}[kind](lines))
    with pytest.raises(InvalidInput, match="not text"):
        list(read_captions(source(name, file.getvalue())))


def test_quoted_cells_may_hold_line_ends_separators_and_quotes() -> None:
    data = 'caption,n\n"first\nsecond, ""quoted""\r\n third",1\nnext,2\n'
    check("a.csv", data.encode(), [Record('first second, "quoted" third'), Record("next")])
    escaped = 'caption,n\n"a \\"big\\" shoe",1\n"Red" by night,2\na 5" heel,3\n'
    records = [Record('a "big" shoe'), Record('"Red" by night'), Record('a 5" heel')]
    check("a.csv", escaped.encode(), records)


def test_more_cells_than_the_header_are_joined_in_the_last_column_and_counted_elsewhere() -> None:
    check("a.csv", b"caption\na red, shiny shoe\n", [Record("a red, shiny shoe")])
    check(
        "a.csv",
        b"id,caption\n1,a red, shiny shoe\n2,a boot,,\n",
        [Record("a red, shiny shoe"), Record("a boot")],
    )
    check(
        "a.csv", b"caption,id\na red, shiny shoe,1\na boot,2\n", [Record("", "malformed"), Record("a boot")]
    )


def test_files_appended_to_each_other() -> None:
    one = "\ufeffcaption,id\na shoe,1\n".encode()
    check("a.csv", one + one, [Record("a shoe"), Record("", "malformed"), Record("a shoe")])
    check("a.txt", "\ufeffa shoe\n\ufeffa boot\n".encode(), [Record("a shoe"), Record("a boot")])


@pytest.mark.parametrize(
    ("data", "field", "says"),
    [
        ("Beschreibung\nein roter Schuh\nein blauer Schuh\n", "header", "'Beschreibung'"),
        ("a red, shiny shoe\na boot\na bag, black\n", "column", "'a red'"),
        ("id,words,n\n1,a shoe,2\n", "column", "'words'"),
        ("id,caption,caption\n1,a,b\n", "column", "2 columns are named 'caption'"),
    ],
)
def test_what_cannot_be_told_is_asked_about_with_the_first_row(data: str, field: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        list(read_captions(source("a.csv", data.encode())))
    assert caught.value.field == field


def test_a_number_of_a_column_does_not_cut_captions_at_their_commas() -> None:
    with pytest.raises(InvalidInput, match="different numbers of cells"):
        list(read_captions(source("a.csv", b"a red, shiny shoe\na boot\n"), column="0"))


def test_header_and_column_settle_it() -> None:
    data = b"Beschreibung\nein roter Schuh\n"
    check("a.csv", data, [Record("ein roter Schuh")], header=True)
    check("a.csv", data, [Record("Beschreibung"), Record("ein roter Schuh")], header=False)
    check("a.csv", b"id,caption,caption\n1,a,b\n", [Record("b")], column="2")
    check("a.csv", b"caption,text\n", [Record("text")], header=False, column="1")


def test_a_doubled_parquet_column_is_named() -> None:
    file = io.BytesIO()
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["caption", "caption"])
    pq.write_table(table, file)
    with pytest.raises(InvalidInput, match="2 columns are named 'caption'"):
        list(read_captions(source("a.parquet", file.getvalue())))


def test_a_description_says_what_was_understood(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("id;Image Caption\n1;a red, shiny shoe\n2;\n3;a boot\n".encode("utf-16"))
    found = describe(open_source(tmp_path / "a.csv"))
    assert (found.format, found.encoding, found.separator, found.column) == (
        "csv",
        "utf-16-le",
        ";",
        "Image Caption",
    )
    assert found.header is True
    assert found.whole
    assert found.first == ("a red, shiny shoe", "a boot")
    assert (found.report.lines, found.report.empty) == (3, 1)
    assert describe(open_source(tmp_path / "a.csv"), sample=2).whole is False
