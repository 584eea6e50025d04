"""Damaged caption files and shards by the hundred: readers raise our errors or give what is there, in bounds.

Every case is a valid file with seeded damage: cut, bits flipped, bytes deleted, doubled, overwritten, put in,
and packing that does not fit the name. What is read of a damaged shard is an error or the content it had.
"""

import gzip
import io
import json
import random
import resource
import tarfile
import time
import tracemalloc
from collections.abc import Iterator
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import ValidationError

from stablerep.captions import MAX_CHARACTERS, Caption, CaptionReport, Source, read_captions
from stablerep.errors import InvalidInput, StableRepError, TornObject
from stablerep.shards import Group, ShardIndex, build_tar, index_tar, read_group, skipped_group
from stablerep.shards.layout import shard_key
from stablerep.storage import open_store

CASE_SECONDS = 3.0  # of the processor: the machine may be busy with other tests
MEMORY_KIB = 400 << 10
SEEDS = range(16)
TEXTS = [f'a caption of number {number}, ü 靴, "quoted"' for number in range(60)]


def parquet() -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"URL": [f"https://a.b/{n}" for n in range(60)], "TEXT": [*TEXTS[:-1], None]})
    pq.write_table(table, buffer, row_group_size=20)
    return buffer.getvalue()


def webdataset() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, text in enumerate(TEXTS[:20]):
            name = f"{number:05d}" if number % 5 else f"{'folder ü/' * 20}{number}"
            members = {
                "jpg": bytes(700),
                "txt": text.encode(),
                "json": json.dumps({"caption": text}).encode(),
            }
            if number % 3 == 0:
                del members["txt"]
            for kind, data in members.items():
                header = tarfile.TarInfo(f"{name}.{kind}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


FILES = {
    "a.txt": "\n".join(TEXTS).encode(),
    "a.tsv": "".join(f"{text}\thttps://a.b/{n}.jpg\n" for n, text in enumerate(TEXTS)).encode(),
    "a.csv": ("caption,url\n" + "".join(f'"{t.replace(chr(34), chr(34) * 2)}",u\n' for t in TEXTS)).encode(),
    "a.jsonl": "".join(json.dumps({"caption": text}) + "\n" for text in TEXTS).encode(),
    "a.json": json.dumps({"info": {"a": [1, 2]}, "annotations": [{"caption": t} for t in TEXTS]}).encode(),
    "a.parquet": parquet(),
    "a.tar": webdataset(),
}
PACKED = {
    **FILES,
    **{f"{name}.gz": gzip.compress(data, mtime=0) for name, data in FILES.items() if name != "a.parquet"},
    **{f"{name}.zst": zstandard.compress(data) for name, data in FILES.items() if name != "a.parquet"},
}


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The data with one to three kinds of damage."""
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(max(1, len(data)))
        length = chance.choice((1, 1, 4, 64, 512, 3000))
        kind = chance.randrange(9)
        if kind == 0:
            data = data[:at]
        elif kind == 1:
            data = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :] if data else data
        elif kind == 2:
            data = data[:at] + data[at + length :]
        elif kind == 3:
            data = data[: at + length] + data[at:]
        elif kind == 4:
            data = data[:at] + bytes(length) + data[at + length :]
        elif kind == 5:
            data = data[:at] + chance.randbytes(length) + data[at + length :]
        elif kind == 6:
            data = data[:at] + b"\xff" * length + data[at + length :]
        elif kind == 7:
            data = (
                data[:at]
                + chance.choice((b'"', b"\n", b"\r", b"[" * 4000, b"{", b"\t", b"\xed\xa0\x80"))
                + data[at:]
            )
        else:
            data = data[-at:] + data[:-at] if at else data
    return data


def source(name: str, data: bytes) -> Source:
    return Source(name, len(data), lambda: io.BytesIO(data))


def read(name: str, data: bytes, format: str | None = None) -> tuple[list[Caption], str]:
    """What a reader gives of the data, checked to be captions, and the text of the error that ended it."""
    began = time.process_time()
    found: list[Caption] = []
    refusal = ""
    report = CaptionReport()
    try:
        for caption in read_captions(source(name, data), format=format, report=report):
            found.append(caption)
    except StableRepError as error:
        refusal = str(error)
    assert time.process_time() - began < CASE_SECONDS
    assert [caption.id for caption in found] == sorted({caption.id for caption in found})
    for _, text in found:
        assert 0 < len(text) <= MAX_CHARACTERS
        assert text.isascii() or text.encode()
        assert not any(ord(character) < 32 for character in text)
    assert report.captions == len(found)
    return found, refusal


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    """No test here may make the process grow by much."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_KIB


@pytest.mark.parametrize("name", sorted(PACKED))
def test_a_damaged_caption_file_is_an_error_or_gives_captions(name: str) -> None:
    whole, refusal = read(name, PACKED[name])
    assert len(whole) >= 19
    assert refusal == ""
    refused = 0
    for seed in SEEDS:
        refused += bool(read(name, damaged(PACKED[name], random.Random(f"{name}{seed}")))[1])
    lines = name in ("a.txt", "a.tsv", "a.csv", "a.jsonl")  # where damage costs a line or two, and is counted
    assert lines or refused > len(SEEDS) / 2


def test_three_hundred_damaged_files_are_read_above() -> None:
    assert len(PACKED) * len(SEEDS) > 300


def test_a_parquet_file_with_a_damaged_footer_is_an_error_or_gives_captions() -> None:
    """Its footer is what readers trust: offsets, counts, names and types, in few bytes."""
    data = FILES["a.parquet"]
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    chance = random.Random(1)
    names = [at for at in range(footer, len(data)) if data[at : at + 3] in (b"URL", b"TEX")]
    for at in names:
        read("a.parquet", data[:at] + b"\xff" + data[at + 1 :])
    for _ in range(200):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(footer, len(data) - 8)
            changed[at] = chance.choice((chance.randrange(256), changed[at] ^ 1, 0xFF, 0))
        read("a.parquet", bytes(changed))


@pytest.mark.parametrize("format", ["text", "tsv", "csv", "jsonl", "redcaps", "parquet", "webdataset"])
def test_a_file_read_as_another_format_is_an_error_or_gives_captions(format: str) -> None:
    for name, data in PACKED.items():
        read(name, data, format)
    chance = random.Random(format)
    for size in (0, 1, 3, 511, 512, 5000):
        read("junk", chance.randbytes(size), format)
        read("zeros", bytes(size), format)
        read("junk.gz", b"\x1f\x8b\x08" + chance.randbytes(size), format)
        read("junk.zst", b"\x28\xb5\x2f\xfd" + chance.randbytes(size), format)


@cache
def bombs() -> dict[str, bytes]:
    """Small files that unpack, nest or claim to be very large."""
    zeros = zstandard.ZstdCompressor().compressobj()
    block = bytes(1 << 20)
    packed = b"".join(zeros.compress(block) for _ in range(300)) + zeros.flush()
    member = tarfile.TarInfo("a.txt")
    member.size = 1 << 50
    pax = tarfile.TarInfo("x")
    pax.type, pax.size = tarfile.XHDTYPE, 1 << 40
    return {
        "zeros.txt.zst": packed,
        "zeros.txt.gz": gzip.compress(block * 100, 1),
        "twice.txt.gz": gzip.compress(gzip.compress(block * 30, 1), 1),
        "zeros.json.zst": packed,
        "zeros.tar.zst": packed,
        "zeros.csv.zst": packed,
        "zeros.jsonl.zst": packed,
        "deep.json": b'{"annotations": ' + b"[" * 3_000_000,
        "deep2.json": b"[" + b'{"a":' * 1_000_000,
        "deep.jsonl": (b"[" * 500_000 + b"\n") * 4,
        "number.jsonl": b'{"caption": ' + b"9" * 900_000 + b"}\n",
        "string.json": b'[{"caption": "' + b"a" * 6_000_000,
        "key.json": b'{"' + b"k" * 6_000_000 + b'": 1}',
        "member.tar": member.tobuf(tarfile.GNU_FORMAT) + bytes(1024),
        "pax.tar": pax.tobuf(tarfile.GNU_FORMAT) + bytes(1024),
        "many.csv": b"caption," + b"x," * 400_000 + b"\n",
        "quote.csv": b'caption\n"' + b"x" * 5_000_000,
        "window.zst": b"\x28\xb5\x2f\xfd\x00\xff" + bytes(100),
    }


@pytest.mark.parametrize("name", sorted(bombs()))
def test_a_file_that_unpacks_or_nests_without_end_takes_little_memory(name: str) -> None:
    data = bombs()[name]
    tracemalloc.start()
    try:
        read(name, data, "text" if name == "window.zst" else None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 96 << 20


GROUPS = [
    Group(16, "a red shoe, ü 靴", (b"image" * 40, b"x" * 512, b"y" * 1500), {"seeds": [1, 2, 3]}),
    skipped_group(17, "a bad one", "the pipeline returned a black image"),
    Group(18, 'a "boot"', (b"z" * 700,), {}),
    Group(10**9 + 5, "far", (b"w" * 9,), {"recipe": "ab"}),
]
TAR = build_tar(GROUPS)
INDEX = index_tar(TAR)


def contents(data: bytes, index: ShardIndex) -> list[tuple[object, ...]]:
    """All that an index says of a tar: captions, images and JSON, byte for byte."""
    spans = [(group.caption_id, group.caption, *group.image_spans, group.json_span) for group in index.groups]
    return [
        (caption_id, caption, *(data[start : start + length] for start, length in of_group))
        for caption_id, caption, *of_group in spans
    ]


def test_a_damaged_shard_is_torn_or_holds_what_it_says() -> None:
    """Damage inside an image cannot be seen in a tar: its structure is as before, and the hash tells it."""
    torn = 0
    for seed in range(500):
        data = damaged(TAR, random.Random(seed))
        try:
            index = index_tar(data)
        except TornObject:
            torn += 1
            continue
        if data == TAR:
            assert index == INDEX
            continue
        assert index.sha256 != INDEX.sha256
        assert index.size == len(data) == len(TAR)
        assert [group.image_spans for group in index.groups] == [group.image_spans for group in INDEX.groups]
        for group, before in zip(index.groups, INDEX.groups, strict=True):
            assert group.caption_id == before.caption_id
            assert group.json_span == before.json_span
            content = json.loads(data[group.json_span[0] : sum(group.json_span)])
            assert (content["caption_id"], content["caption"]) == (group.caption_id, group.caption)
    assert torn > 300


def test_every_byte_of_a_shard_s_headers_and_padding_is_checked() -> None:
    images = set()
    for group in INDEX.groups:
        for start, length in group.image_spans:
            images.update(range(start, start + length))
    for at in range(0, len(TAR), 7):
        data = TAR[:at] + bytes([TAR[at] ^ 0x20]) + TAR[at + 1 :]
        try:
            index = index_tar(data)
        except TornObject:
            continue
        in_json = any(group.json_span[0] <= at < sum(group.json_span) for group in index.groups)
        assert at in images or in_json or b"a bad one" in TAR[at - 600 : at + 600], at
        assert index.sha256 != INDEX.sha256


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_index_is_refused_or_leads_to_torn_groups_never_to_wrong_ones(
    seed: int, tmp_path: object
) -> None:
    store = open_store(str(tmp_path))
    store.put(shard_key("shoes", 0), TAR)
    text = INDEX.model_dump_json().encode()
    whole = {group.caption_id: read_group(store, "shoes", 0, group) for group in INDEX.groups}
    for number in range(25):
        chance = random.Random(f"{seed}/{number}")
        try:
            index = ShardIndex.model_validate_json(damaged(text, chance))
        except ValidationError:
            continue
        for group in index.groups:
            try:
                found = read_group(store, "shoes", 0, group)
            except (TornObject, InvalidInput):
                continue
            assert found.caption == whole[group.caption_id].caption
