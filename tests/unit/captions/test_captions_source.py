"""Sources: local files, packed ones, formats by name, limits, shards, and unusable files."""

import gzip
import io
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from stablerep.captions import (
    FORMATS,
    Caption,
    CaptionReport,
    Source,
    check_format,
    cut,
    open_source,
    read_captions,
)
from stablerep.errors import InvalidInput, NotFound

TEXT = "".join(f"caption {number}, ü\n" for number in range(20_000)).encode()
CAPTIONS = [(number, f"caption {number}, ü") for number in range(20_000)]


def zstd_streamed(data: bytes) -> bytes:
    """As the zstd program packs a pipe: the frame does not say how long its content is."""
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(data) + packer.flush()


PACKED = {
    "plain": TEXT,
    "gzip": gzip.compress(TEXT),
    "gzip of two members": gzip.compress(TEXT[:1001]) + gzip.compress(TEXT[1001:]),
    "zstd": zstandard.compress(TEXT),
    "zstd streamed": zstd_streamed(TEXT),
    "zstd of two frames": zstd_streamed(TEXT[:1001]) + zstandard.compress(TEXT[1001:]),
    "zstd with a checksum": zstandard.ZstdCompressor(write_checksum=True).compress(TEXT),
}


def source(name: str, data: bytes) -> Source:
    return Source(name, len(data), lambda: io.BytesIO(data))


@pytest.mark.parametrize("data", PACKED.values(), ids=PACKED.keys())
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst"])
def test_packed_or_not_and_whatever_the_name_says_the_captions_are_the_same(name: str, data: bytes) -> None:
    assert list(read_captions(source(name, data))) == CAPTIONS


def test_what_the_gzip_program_packs_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    subprocess.run(["gzip", "-9", tmp_path / "a.txt"], check=True)
    assert list(read_captions(open_source(tmp_path / "a.txt.gz"))) == CAPTIONS


@pytest.mark.parametrize("kind", [kind for kind in PACKED if kind != "plain"])
@pytest.mark.parametrize("kept", [10, 300, -1000, -9, -5, -1])
def test_a_packed_file_that_is_cut_off_is_named(kind: str, kept: int) -> None:
    report = CaptionReport()
    with pytest.raises(InvalidInput, match=r"captions\.txt\.packed.*cut off"):
        list(read_captions(source("captions.txt.packed", PACKED[kind][:kept]), format="text", report=report))


@pytest.mark.parametrize("kind", ["gzip", "zstd with a checksum"])
def test_a_packed_file_with_a_damaged_byte_is_never_read_as_something_else(kind: str) -> None:
    data = PACKED[kind]
    for at in range(4, len(data), len(data) // 40):
        damaged = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        try:
            captions = list(read_captions(source("a.txt", damaged)))
        except InvalidInput:
            continue
        assert captions == CAPTIONS  # a byte of the header that says nothing about the content


def test_a_file_that_unpacks_to_gigabytes_is_read_in_little_memory() -> None:
    packer = zstandard.ZstdCompressor().compressobj()
    block = b"x" * (1 << 20)
    data = (
        b"".join(packer.compress(block) for _ in range(512)) + packer.compress(b"\nlast\n") + packer.flush()
    )
    assert len(data) < 1 << 20
    tracemalloc.start()
    try:
        captions = list(read_captions(source("a.txt.zst", data)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert captions == [(1, "last")]
    assert peak < 64 << 20


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.txt", "text"), ("a.TSV.GZ", "tsv"), ("a.csv.zst", "csv"), ("a.b.jsonl.zstd", "jsonl"),
     ("a.ndjson", "jsonl"), ("2017.json", "redcaps"), ("a.parquet", "parquet")],
)  # fmt: skip
def test_a_name_tells_the_format(name: str, format: str) -> None:
    assert check_format(name) == check_format(name, "") == format


@pytest.mark.parametrize("name", ["captions", "a.docx", "a.gz", "txt", ""])
def test_a_name_that_tells_no_format_needs_one(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_captions(source(name, b"a\n"))
    assert caught.value.field == "format"
    assert all(format in str(caught.value) for format in FORMATS)
    assert list(read_captions(source(name, b"a\n"), format="text")) == [(0, "a")]


def test_an_unknown_format_is_refused_before_anything_is_read() -> None:
    with pytest.raises(InvalidInput) as caught:
        read_captions(source("a.txt", b""), format="xml")
    assert caught.value.field == "format"


@pytest.mark.parametrize("limit", [None, 0, 1, 5, 20_000, 30_000])
def test_a_limit_counts_captions(limit: int | None) -> None:
    data = b"\n" + TEXT
    wanted = [(number + 1, text) for number, text in CAPTIONS]
    assert list(read_captions(source("a.txt", data), limit=limit)) == wanted[: limit or None]
    with pytest.raises(InvalidInput):
        read_captions(source("a.txt", data), limit=-1)


@pytest.mark.parametrize("data", [b"", b"\n \n", b"\xff\n", b"x" * 2000])
def test_a_file_without_a_usable_caption_is_an_error_that_counts_why(data: bytes) -> None:
    report = CaptionReport()
    with pytest.raises(InvalidInput, match=r"a\.txt has no usable caption") as caught:
        list(read_captions(source("a.txt", data), report=report))
    assert caught.value.field == "source"
    assert str(report) in str(caught.value)
    assert report.captions == 0


def test_the_report_is_up_to_date_while_captions_are_taken() -> None:
    report = CaptionReport()
    captions = read_captions(source("a.txt", b"a\n\nb\n"), report=report)
    assert next(captions) == (0, "a")
    assert report == CaptionReport(lines=1, captions=1)
    assert next(captions) == (2, "b")
    assert report == CaptionReport(lines=3, captions=2, empty=1)


def test_a_local_path_that_is_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"gone\.txt"):
        open_source(tmp_path / "gone.txt")
    with pytest.raises(InvalidInput):
        open_source(tmp_path)
    with pytest.raises(InvalidInput):
        open_source(["a", "b"])


def test_a_source_can_be_read_twice_and_closes_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\nb\n")
    twice = open_source(str(tmp_path / "a.txt"))
    assert twice.size == 4
    assert list(read_captions(twice)) == list(read_captions(twice)) == [Caption(0, "a"), Caption(1, "b")]


@pytest.mark.parametrize(("count", "size", "shards"), [(0, 3, 0), (1, 3, 1), (3, 3, 1), (7, 3, 3), (5, 1, 5)])
def test_cutting_keeps_order_and_leaves_the_rest_in_the_last_shard(
    count: int, size: int, shards: int
) -> None:
    captions = [Caption(number * 2, str(number)) for number in range(count)]
    cut_up = list(cut(iter(captions), size))
    assert [number for number, _ in cut_up] == list(range(shards))
    assert [caption for _, shard in cut_up for caption in shard] == captions
    assert all(len(shard) == size for _, shard in cut_up[:-1])
    with pytest.raises(InvalidInput):
        next(cut(captions, 0))


def test_cutting_takes_no_more_than_it_gives() -> None:
    taken = []

    def watched() -> object:
        for number in range(100):
            taken.append(number)
            yield Caption(number, "a")

    shards = cut(watched(), 10)  # type: ignore[arg-type]
    next(shards)
    assert len(taken) == 10


def test_importing_captions_and_storage_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "PIL", "pyarrow", "minio", "diffusers", "transformers")
    code = (
        f"import sys, stablerep.captions, stablerep.storage; print([m for m in {heavy} if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["captions", "storage"])
def test_the_public_names_are_there(package: str) -> None:
    import importlib

    module = importlib.import_module(f"stablerep.{package}")
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
