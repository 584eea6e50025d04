"""Shard tars: deterministic bytes, exact spans, and an index that refuses whatever is not a whole tar."""

import base64
import hashlib
import io
import json
import random
import subprocess
import sys
import tarfile
from itertools import pairwise
from pathlib import Path
from threading import Barrier, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stablerep.errors import InvalidInput, TornObject
from stablerep.shards import (
    Group,
    ShardIndex,
    build_tar,
    commit_shard,
    index_tar,
    read_captions,
    read_group,
    read_index,
    rebuild_index,
    skipped_group,
    write_captions,
)
from stablerep.shards.layout import captions_key, index_key, shard_key
from stablerep.storage import open_store
from tests.paths import ROOT


def groups(*, fill: bytes = b"image") -> list[Group]:
    """Two groups around a skipped caption; contents of odd lengths, one of exactly a block."""
    return [
        Group(16, "a red shoe, ü 靴", (fill, fill * 300, b"x" * 512), {"seeds": [1, 2, 3], "recipe": "ab"}),
        skipped_group(17, "a bad one", "the pipeline returned a black image"),
        Group(18, 'a "boot"', (fill * 7,), {}),
    ]


def test_the_same_groups_in_any_order_give_the_same_bytes() -> None:
    shuffled = groups()[::-1]
    reordered = [Group(g.caption_id, g.caption, g.encoded, dict(reversed(g.info.items()))) for g in shuffled]
    assert build_tar(groups()) == build_tar(reordered)
    assert build_tar(groups()) != build_tar(groups(fill=b"other"))


def test_another_process_writes_the_same_bytes() -> None:
    code = (
        "import hashlib, sys; sys.path.insert(0, '.');"
        "from tests.unit.shards.test_shards import groups; from stablerep.shards import build_tar;"
        "print(hashlib.sha256(build_tar(groups())).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.strip() == hashlib.sha256(build_tar(groups())).hexdigest()


def test_members_are_those_of_a_webdataset_with_nothing_of_the_machine_in_them() -> None:
    with tarfile.open(fileobj=io.BytesIO(build_tar(groups()))) as tar:
        members = tar.getmembers()
        content = json.load(tar.extractfile("000000016.json") or io.BytesIO())
    assert [member.name for member in members] == [
        "000000016.00.jpg", "000000016.01.jpg", "000000016.02.jpg", "000000016.json",
        "000000017.json", "000000018.00.jpg", "000000018.json",
    ]  # fmt: skip
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
        assert member.mode == 0o644
        assert member.isreg()
    assert content == {
        "caption": "a red shoe, ü 靴",
        "caption_id": 16,
        "seeds": [1, 2, 3],
        "recipe": "ab",
    }
    assert list(content) == sorted(content)


def test_spans_are_where_tarfile_finds_the_files() -> None:
    data = build_tar(groups())
    index = index_tar(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {member.name: (member.offset_data, member.size) for member in tar}
    assert index.size == len(data)
    assert index.sha256 == hashlib.sha256(data).hexdigest()
    assert [group.caption_id for group in index.groups] == [16, 18]
    for group in index.groups:
        assert group.json_span == found[f"{group.caption_id:09d}.json"]
        assert list(group.image_spans) == [
            found[f"{group.caption_id:09d}.{number:02d}.jpg"] for number in range(len(group.image_spans))
        ]
    offset, length = index.groups[0].image_spans[1]
    assert data[offset : offset + length] == b"image" * 300
    assert [(s.caption_id, s.error) for s in index.skipped] == [(17, "the pipeline returned a black image")]
    assert index.images == 4


def test_the_index_survives_its_json() -> None:
    index = index_tar(build_tar(groups()))
    assert ShardIndex.model_validate_json(index.model_dump_json()) == index


CAPTION = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
GROUP = st.builds(
    lambda id_, caption, images, seed: Group(id_, caption, tuple(images), {"seed": seed}),
    st.integers(0, 10**12),
    CAPTION,
    st.lists(st.binary(min_size=1, max_size=1500), min_size=1, max_size=4),
    st.integers(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(GROUP, max_size=5, unique_by=lambda group: group.caption_id))
def test_any_groups_come_back_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[Group]
) -> None:
    store = open_store(tmp_path_factory.mktemp("store"))
    index = commit_shard(store, "d", 0, build_tar(wanted))
    assert [read_group(store, "d", 0, group) for group in index.groups] == sorted(
        wanted, key=lambda group: group.caption_id
    )


def test_every_cut_off_tar_is_torn() -> None:
    data = build_tar(groups())
    for length in {0, 1, *range(0, len(data), 256), len(data) - 1}:
        with pytest.raises(TornObject):
            index_tar(data[:length])
    for more in (b"\0", bytes(512), bytes(10240), b"x" * 10240, data):
        with pytest.raises(TornObject):
            index_tar(data + more)


def test_every_flipped_byte_outside_an_images_content_is_torn_or_another_text() -> None:
    data = build_tar(groups())
    index = index_tar(data)
    inside_images = {
        at for g in index.groups for start, size in g.image_spans for at in range(start, start + size)
    }
    for at in range(0, len(data), 7):
        for bit in (0x01, 0x80):
            flipped = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
            try:
                found = index_tar(flipped)
            except TornObject:
                assert at not in inside_images
                continue
            assert found.sha256 != index.sha256
            assert [g.image_spans for g in found.groups] == [g.image_spans for g in index.groups]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_makes_index_tar_fail_in_another_way(data: st.DataObject) -> None:
    tar = bytearray(build_tar(groups()))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(tar)))
        end = min(len(tar), start + data.draw(st.integers(0, 1024)))
        tar[start:end] = data.draw(
            st.one_of(st.binary(max_size=64), st.just(bytes(tar[:512])), st.just(bytes(512)))
        )
    try:
        index = index_tar(bytes(tar))
    except TornObject:
        return
    assert index.size == len(tar)


def member(name: str, content: bytes, **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    header = tarfile.TarInfo(name)
    header.size, header.mode = len(content), 0o644
    for attribute, value in attributes.items():
        setattr(header, attribute, value)
    return header, content


def tar_of(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for header, content in members:
            tar.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


IMAGE = member("000000001.00.jpg", b"image")
SECOND = member("000000001.01.jpg", b"image")
TEXT = member("000000001.json", b'{"caption":"a","caption_id":1}')
ODD = {
    "an image without JSON": tar_of(IMAGE),
    "JSON without an image or an error": tar_of(TEXT),
    "a hole in the images": tar_of(SECOND, TEXT),
    "images in the wrong order": tar_of(SECOND, IMAGE, TEXT),
    "the JSON before the images": tar_of(TEXT, IMAGE),
    "a group twice": tar_of(IMAGE, TEXT, IMAGE, TEXT),
    "an image twice": tar_of(IMAGE, IMAGE, TEXT),
    "groups out of order": tar_of(
        member("000000002.00.jpg", b"i"),
        member("000000002.json", b'{"caption":"a","caption_id":2}'),
        IMAGE,
        TEXT,
    ),
    "an empty image": tar_of(member("000000001.00.jpg", b""), TEXT),
    "another kind of file": tar_of(IMAGE, member("000000001.cls", b"1"), TEXT),
    "a path": tar_of(member("../000000001.00.jpg", b"i"), TEXT),
    "a short id": tar_of(member("1.00.jpg", b"i"), member("1.json", b'{"caption":"a","caption_id":1}')),
    "a link": tar_of(member("000000001.00.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"), TEXT),
    "a folder": tar_of(member("000000001.00.jpg", b"", type=tarfile.DIRTYPE), TEXT),
    "a time": tar_of(member("000000001.00.jpg", b"i", mtime=1), TEXT),
    "an owner": tar_of(member("000000001.00.jpg", b"i", uname="root"), TEXT),
    "broken JSON": tar_of(IMAGE, member("000000001.json", b'{"caption":')),
    "JSON that is no object": tar_of(IMAGE, member("000000001.json", b"[1]")),
    "JSON of another caption": tar_of(IMAGE, member("000000001.json", b'{"caption":"a","caption_id":2}')),
    "JSON whose id is true": tar_of(IMAGE, member("000000001.json", b'{"caption":"a","caption_id":true}')),
    "JSON without a caption": tar_of(IMAGE, member("000000001.json", b'{"caption_id":1}')),
    "a caption that is no text": tar_of(IMAGE, member("000000001.json", b'{"caption":1,"caption_id":1}')),
    "half a character": tar_of(IMAGE, member("000000001.json", b'{"caption":"\\ud800","caption_id":1}')),
    "no UTF-8": tar_of(IMAGE, member("000000001.json", b'{"caption":"\xff","caption_id":1}')),
    "an error that is no text": tar_of(member("000000001.json", b'{"caption":"a","caption_id":1,"error":1}')),
    "deep JSON": tar_of(IMAGE, member("000000001.json", b"[" * 100_000)),
    "no tar": b"hello" * 2048,
    "JPEG": b"\xff\xd8\xff\xe0" + bytes(10236),
    "zeros of the wrong length": bytes(20480),
}  # fmt: skip


@pytest.mark.parametrize("data", ODD.values(), ids=ODD.keys())
def test_a_tar_that_no_worker_writes_is_torn(data: bytes) -> None:
    with pytest.raises(TornObject):
        index_tar(data)


def test_the_members_that_the_odd_tars_are_made_of_are_fine_in_order() -> None:
    assert index_tar(tar_of(IMAGE, SECOND, TEXT)).images == 2
    assert index_tar(tar_of()).groups == ()


UNFIT = {
    "an id twice": [Group(1, "a", (b"i",)), Group(1, "b", (b"j",))],
    "a negative id": [Group(-1, "a", (b"i",))],
    "an empty image": [Group(1, "a", (b"i", b""))],
    "no image and no error": [Group(1, "a", ())],
    "a hundred images": [Group(1, "a", (b"i",) * 100)],
    "info over the caption": [Group(1, "a", (b"i",), {"caption": "b"})],
    "info that is no JSON": [Group(1, "a", (b"i",), {"x": object()})],
    "not a number": [Group(1, "a", (b"i",), {"x": float("nan")})],
    "half a character": [Group(1, "\ud800", (b"i",))],
}


@pytest.mark.parametrize("unfit", UNFIT.values(), ids=UNFIT.keys())
def test_groups_that_do_not_fit_a_shard_are_refused(unfit: list[Group]) -> None:
    with pytest.raises(InvalidInput):
        build_tar(unfit)


def test_the_first_of_two_tars_stays_and_both_workers_get_its_index(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    first, second = build_tar(groups(fill=b"first")), build_tar(groups(fill=b"second one"))
    assert commit_shard(store, "d", 0, first) == commit_shard(store, "d", 0, second) == index_tar(first)
    assert store.get(shard_key("d", 0)) == first
    assert read_index(store, "d", 0) == index_tar(first)


@pytest.mark.parametrize("attempt", range(5))
def test_of_many_workers_at_once_one_wins_and_the_index_is_the_winners(attempt: int, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    tars = [build_tar(groups(fill=b"w" * (worker + 1))) for worker in range(8)]
    barrier, returned = Barrier(len(tars)), []

    def work(tar: bytes) -> None:
        barrier.wait()
        returned.append(commit_shard(store, "d", attempt, tar))

    threads = [Thread(target=work, args=(tar,)) for tar in tars]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = index_tar(store.get(shard_key("d", attempt)))
    assert returned == [winner] * len(tars)
    assert read_index(store, "d", attempt) == winner


def test_a_worker_that_died_between_tar_and_index_is_made_good_by_the_next(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    first = build_tar(groups(fill=b"first"))
    store.put(shard_key("d", 3), first)
    assert read_index(store, "d", 3) is None
    commit_shard(store, "d", 3, build_tar(groups(fill=b"second")))
    assert read_index(store, "d", 3) == index_tar(first)


def test_an_index_that_was_lost_is_made_again_from_the_tar_alone(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    index = commit_shard(store, "d", 0, build_tar(groups()))
    before = store.get(index_key("d", 0))
    store.delete(index_key("d", 0))
    assert rebuild_index(store, "d", 0) == index
    assert store.get(index_key("d", 0)) == before


def test_a_damaged_tar_in_the_store_is_named_and_never_indexed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put(shard_key("d", 0), build_tar(groups())[:-1024])
    with pytest.raises(TornObject, match=r"datasets/d/shards/000000\.tar"):
        commit_shard(store, "d", 0, build_tar(groups()))
    assert read_index(store, "d", 0) is None


def test_a_broken_tar_is_not_even_written(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(TornObject):
        commit_shard(store, "d", 0, b"not a tar")
    assert list(store.list()) == []


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"size": 1, "sha256": "", "groups": [{}]}'])
def test_a_damaged_index_is_named(data: bytes, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put(index_key("d", 0), data)
    with pytest.raises(TornObject, match=r"datasets/d/index/000000\.json"):
        read_index(store, "d", 0)


def test_an_index_of_another_tar_does_not_give_a_wrong_group(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    index = commit_shard(store, "d", 0, build_tar(groups()))
    store.put(shard_key("d", 0), build_tar(groups(fill=b"much longer images than before")))
    for group in index.groups:
        with pytest.raises(TornObject):
            read_group(store, "d", 0, group)


def test_a_groups_members_lie_next_to_each_other() -> None:
    index = index_tar(build_tar(groups()))
    spans = [(*group.image_spans, group.json_span) for group in index.groups]
    for group in spans:
        for (offset, length), (following, _) in pairwise(group):
            assert following == offset + -(-length // 512) * 512 + 512


def test_images_are_decoded_and_a_notebook_shows_them_with_the_caption_escaped() -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 4), 200).save(buffer, "JPEG")
    group = Group(1, "<b>bold</b>", (buffer.getvalue(),) * 2)
    assert [(image.size, image.mode) for image in group.images] == [((8, 4), "RGB")] * 2
    shown = group._repr_html_()
    assert shown.count("<img") == 2
    assert base64.b64encode(buffer.getvalue()).decode() in shown
    assert "&lt;b&gt;" in shown
    assert "<b>" not in shown


def test_captions_of_a_shard_come_back_and_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    wanted = [(7, "a shoe"), (9, "ein Stiefel, ü\u2028"), (10, "靴")]
    write_captions(store, "d", 4, wanted)
    first = store.get(captions_key("d", 4))
    assert read_captions(store, "d", 4) == wanted
    write_captions(store, "d", 4, iter(wanted))
    assert store.get(captions_key("d", 4)) == first


def test_damaged_captions_are_torn(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write_captions(store, "d", 0, [(number, f"caption {number}") for number in range(50)])
    data = store.get(captions_key("d", 0))
    rng = random.Random(0)
    for damaged in (b"", data[:-5], data[: len(data) // 2], b"x" + data[1:], rng.randbytes(100)):
        store.put(captions_key("d", 0), damaged)
        with pytest.raises(TornObject, match=r"000000\.jsonl\.zst"):
            read_captions(store, "d", 0)
