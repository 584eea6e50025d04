"""WebDataset shards as captions: what img2dataset writes, long names, damage, images that are not read."""

import io
import json
import random
import tarfile
from pathlib import Path

import pytest
import webdataset
import zstandard

from stablerep.captions import Caption, CaptionReport, Source, open_source, read_captions
from stablerep.captions.source import TAR_READ_AHEAD, object_reader
from stablerep.errors import InvalidInput, NotFound
from stablerep.storage import open_store


def tar_of(members: list[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def source(data: bytes, name: str = "00000.tar") -> Source:
    return Source(name, len(data), lambda: io.BytesIO(data))


def texts(data: bytes, column: str | None = None) -> list[tuple[int, str]]:
    return list(read_captions(source(data), column=column))


JPEG = random.Random(0).randbytes(3000)


def test_shards_written_as_img2dataset_writes_them_are_read_in_order(tmp_path: Path) -> None:
    """Its `WebDatasetSampleWriter` gives the samples jpg, json and txt to webdataset's own TarWriter."""
    for shard in range(3):
        with webdataset.TarWriter(str(tmp_path / f"{shard:05d}.tar")) as writer:
            for number in range(4):
                caption = f"caption {shard} {number}, ü"
                facts = {"caption": "of the json", "url": "https://a", "key": f"{shard:05d}{number:04d}"}
                writer.write(
                    {"__key__": facts["key"], "jpg": JPEG, "txt": caption, "json": json.dumps(facts)}
                )
        (tmp_path / f"{shard:05d}_stats.json").write_text("{}")
        (tmp_path / f"{shard:05d}.parquet").write_bytes(b"PAR1")
    wanted = [Caption(4 * shard + n, f"caption {shard} {n}, ü") for shard in range(3) for n in range(4)]
    for pattern in ("{00000..00002}.tar", "*.tar", "{00000..00000}*.tar"):
        found = list(read_captions(open_source(str(tmp_path / pattern))))
        assert found == (wanted if "{00000..00000}" not in pattern else wanted[:4])
    assert list(read_captions(open_source(tmp_path / "00001.tar"), limit=2)) == [
        Caption(0, "caption 1 0, ü"),
        Caption(1, "caption 1 1, ü"),
    ]
    by_column = read_captions(open_source(str(tmp_path / "*.tar")), column="url")
    assert {caption.text for caption in by_column} == {"https://a"}


def test_json_stands_in_where_there_is_no_txt_and_what_is_missing_is_counted() -> None:
    report = CaptionReport()
    members = [
        ("a/1.jpg", JPEG), ("a/1.json", b'{"caption": "one", "url": "u"}'),
        ("a/2.jpg", JPEG), ("a/2.txt", b"two"), ("a/2.json", b'{"caption": "not this"}'),
        ("a/3.jpg", JPEG),
        ("a/4.json", b'{"url": "u"}'),
        ("a/5.txt", b""), ("a/6.txt", b"\xff\xff"), ("a/7.json", b"{"), ("a/8.json", b'{"caption": null}'),
        ("a/9.txt", b"x" * 2000), ("a/10.json", b"[1]"), ("a/11.json", b'{"caption": 5}'),
        ("README", b"no sample"), ("__meta__.json", b"{}"), ("a/.hidden", b""), ("._a", b""),
        ("a/12.TXT", b"twelve\n"), ("a/13.json", b'{"TEXT": "thirteen"}'), ("a/14.seg.png", JPEG),
    ]  # fmt: skip
    found = list(read_captions(source(tar_of(members)), report=report))
    assert found == [(0, "one"), (1, "two"), (11, "twelve"), (12, "thirteen")]
    assert report == CaptionReport(
        lines=14, captions=4, empty=2, too_long=1, bad_encoding=1, missing_column=4, malformed=2
    )


def test_the_same_key_apart_or_the_same_member_twice_is_another_sample() -> None:
    members = [("1.txt", b"a"), ("2.txt", b"b"), ("1.txt", b"c"), ("1.txt", b"d"), ("x/1.txt", b"e")]
    assert texts(tar_of(members)) == list(enumerate("abcde"))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar_is_read_with_long_and_foreign_names(format: int) -> None:
    long = ("d" * 90 + "/") * 2 if format == tarfile.USTAR_FORMAT else "ü" * 300 + "/"
    members = [
        (f"{long[:150] if format == tarfile.USTAR_FORMAT else long}{n}.txt", b"%d" % n) for n in range(3)
    ]
    assert texts(tar_of(members, format)) == [(n, str(n)) for n in range(3)]


def test_folders_links_and_sparse_files() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        link = tarfile.TarInfo("a/0.txt")
        link.type, link.linkname, link.size = tarfile.SYMTYPE, "/etc/passwd", 0
        tar.addfile(link)
        header = tarfile.TarInfo("a/1.txt")
        header.size = 3
        tar.addfile(header, io.BytesIO(b"one"))
    assert texts(buffer.getvalue()) == [(0, "one")]
    sparse = bytearray(tar_of([("a.txt", b"x")]))
    sparse[156:157] = tarfile.GNUTYPE_SPARSE
    with pytest.raises(InvalidInput, match="damaged"):
        texts(bytes(sparse))


SAMPLES = [
    (f"{n:04d}.{kind}", b"caption %d" % n if kind == "txt" else JPEG)
    for n in range(5)
    for kind in ("jpg", "txt")
]
WHOLE = tar_of(SAMPLES)


def test_a_tar_cut_off_anywhere_is_an_error_that_names_it_and_the_place() -> None:
    end = 5 * (512 + 3072 + 512 + 512)
    for kept in [0, 1, 511, 512, 513, 4000, *range(512, end, 512), end - 1, end, end + 511]:
        with pytest.raises(InvalidInput, match=r"00000\.tar: the tar is damaged at byte \d+: it is cut off"):
            texts(WHOLE[:kept])
    assert len(texts(WHOLE[: end + 512])) == 5


def test_a_header_overwritten_by_anything_is_an_error() -> None:
    for start in range(0, 5 * (512 + 3072 + 512 + 512), 512):
        if WHOLE[start + 257 : start + 262] != b"ustar":
            continue
        for junk in (bytes(512), b"x" * 512, random.Random(start).randbytes(512)):
            damaged = WHOLE[:start] + junk + WHOLE[start + 512 :]
            with pytest.raises(InvalidInput, match="damaged at byte"):
                texts(damaged)


def test_of_several_tars_the_damaged_one_is_named(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.tar").write_bytes(WHOLE if number != 1 else WHOLE[:9000])
    with pytest.raises(InvalidInput, match=r"1\.tar: the tar is damaged"):
        list(read_captions(open_source(str(tmp_path / "{0..2}.tar"))))


@pytest.mark.parametrize("pattern", ["{0..3}.tar", "a*.tar"])
def test_a_file_that_is_missing_is_named(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "0.tar").write_bytes(WHOLE)
    with pytest.raises(NotFound, match="no file"):
        open_source(str(tmp_path / pattern))


def test_a_packed_tar_is_read_and_one_with_large_claims_takes_no_memory() -> None:
    packed = zstandard.compress(WHOLE)
    assert len(list(read_captions(source(packed, "00000.tar.zst")))) == 5
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE):
        header = tarfile.TarInfo("x")
        header.type, header.size = kind, 1 << 33
        with pytest.raises(InvalidInput, match="header of 8589934592 bytes"):
            texts(header.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    header = tarfile.TarInfo("a.txt")
    header.size = 1 << 60
    with pytest.raises(InvalidInput, match="damaged"):
        texts(header.tobuf(tarfile.GNU_FORMAT) + bytes(4096))


def test_large_images_are_passed_over_without_being_read(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    members = [
        (f"{n}.{kind}", b"caption" if kind == "txt" else bytes(8 * TAR_READ_AHEAD))
        for n in range(4)
        for kind in ("jpg", "txt")
    ]
    data = tar_of(members)
    store.put("a.tar", data)
    read: list[int] = []

    class Counting:
        def get_range(self, key: str, offset: int, length: int) -> bytes:
            read.append(length)
            return store.get_range(key, offset, length)

        def stat(self, key: str) -> None:
            return None

    found = Source(
        "a.tar", len(data), lambda: object_reader(Counting(), ["a.tar"], [len(data)], TAR_READ_AHEAD)
    )
    assert len(list(read_captions(found))) == 4
    assert sum(read) < len(data) / 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("part-{}.txt", "one\ntwo\n"),
        ("part-{}.csv", "caption;id\none;1\ntwo;2\n"),
        ("part-{}.jsonl", '{"caption": "one"}\n{"caption": "two"}\n'),
    ],
)
def test_every_format_takes_many_files_each_with_a_header_of_its_own(
    tmp_path: Path, name: str, content: str
) -> None:
    for number in range(2):
        (tmp_path / name.format(number)).write_text(content)
    for pattern in (name.format("{0..1}"), name.format("*")):
        found = list(read_captions(open_source(str(tmp_path / pattern))))
        assert found == [(0, "one"), (1, "two"), (2, "one"), (3, "two")]


def test_an_error_in_one_of_many_files_names_it(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("caption,id\none,1\n")
    (tmp_path / "1.csv").write_text("1,2,3\n")
    with pytest.raises(InvalidInput, match=r"1\.csv"):
        list(read_captions(open_source(str(tmp_path / "{0..1}.csv"))))
