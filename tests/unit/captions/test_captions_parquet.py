"""Captions from Parquet files that pyarrow wrote, as LAION's are."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stablerep.captions import Caption, CaptionReport, open_source, read_captions
from stablerep.errors import InvalidInput
from stablerep.storage import open_store


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def read(path: Path, **options: Any) -> list[Caption]:
    return list(read_captions(open_source(path), **options))


def test_laions_text_column_is_found_and_nulls_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "part.parquet", {"URL": ["u"] * 5, "TEXT": ["a", None, " ", "b", "x" * 1001]})
    report = CaptionReport()
    assert read(path, report=report) == [(0, "a"), (3, "b")]
    assert report == CaptionReport(lines=5, captions=2, empty=2, too_long=1)


@pytest.mark.parametrize("rows_a_group", [1, 7, 5000, 100_000])
def test_ids_go_on_over_row_groups(rows_a_group: int, tmp_path: Path) -> None:
    count = 40 if rows_a_group == 1 else 10_000
    texts = [f"caption {number}" for number in range(count)]
    path = write(tmp_path / "a.parquet", {"caption": texts}, row_group_size=rows_a_group)
    assert read(path) == list(enumerate(texts))
    assert read(path, limit=3) == list(enumerate(texts[:3]))


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["a", "b", "a"]),
        pa.array(["a", "b", "a"], pa.large_string()),
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array([b"a", b"b", b"a"]),
    ],
    ids=["string", "large string", "dictionary", "binary"],
)
def test_every_type_that_holds_text_is_read(values: pa.Array, tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.parquet", {"text": values})) == [(0, "a"), (1, "b"), (2, "a")]


def test_one_badly_encoded_value_costs_itself_alone(tmp_path: Path) -> None:
    report = CaptionReport()
    path = write(tmp_path / "a.parquet", {"text": pa.array([b"a", b"\xff", b"b"])})
    assert read(path, report=report) == [(0, "a"), (2, "b")]
    assert report.bad_encoding == 1


@pytest.mark.parametrize(
    ("columns", "column", "says"),
    [
        ({"URL": ["u"]}, None, "'URL'"),
        ({"TEXT": ["a"]}, "words", "'TEXT'"),
        ({"TEXT": [1]}, None, "int64"),
        ({"TEXT": [["a"]]}, None, "list"),
    ],
)
def test_a_column_that_is_not_there_or_holds_no_text_is_named(
    columns: dict[str, Any], column: str | None, says: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        read(write(tmp_path / "a.parquet", columns), column=column)
    assert caught.value.field == "column"


def test_a_damaged_file_is_an_error_of_ours(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.parquet", {"text": [f"caption {n}" for n in range(2000)]}).read_bytes()
    for damaged in (
        b"",
        b"PAR1",
        whole[:-8],
        whole[: len(whole) // 2],
        whole[:100] + bytes(200) + whole[300:],
    ):
        (tmp_path / "b.parquet").write_bytes(damaged)
        with pytest.raises(InvalidInput):
            read(tmp_path / "b.parquet")


def test_a_packed_parquet_file_is_told_to_be_unpacked(tmp_path: Path) -> None:
    import gzip

    data = gzip.compress(write(tmp_path / "a.parquet", {"text": ["a"]}).read_bytes())
    (tmp_path / "a.parquet.gz").write_bytes(data)
    with pytest.raises(InvalidInput, match="unpack"):
        read(tmp_path / "a.parquet.gz")


def test_it_is_read_from_the_parts_of_an_upload(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    texts = [f"caption {number}" for number in range(20_000)]
    pq.write_table(pa.table({"TEXT": texts}), buffer, row_group_size=3000)
    data, store = buffer.getvalue(), open_store(tmp_path)
    cuts = [0, 100, len(data) // 2, len(data) - 4, len(data)]
    for number, start in enumerate(cuts[:-1]):
        store.put(f"part{number}", data[start : cuts[number + 1]])
    parts = open_source([f"part{n}" for n in range(4)], store=store, name="laion.parquet")
    assert list(read_captions(parts)) == list(enumerate(texts))


def test_without_pyarrow_the_error_says_what_to_install(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["a"]})
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from stablerep.captions import open_source, read_captions\n"
        "from stablerep.errors import InvalidInput\n"
        f"try: list(read_captions(open_source({str(path)!r})))\n"
        "except InvalidInput as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'stablerep[serve]'" in run.stdout
