"""The `webdataset` library reads our shards as it reads any others."""

import io
import json
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from stablerep.shards import Group, build_tar, commit_shard, skipped_group
from stablerep.shards.layout import shard_key
from stablerep.storage import open_store


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, shade, shade)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def shard(tmp_path: Path) -> tuple[str, list[Group]]:
    """The path of a shard, and the groups in it."""
    groups = [
        Group(31, "a shoe, ü", tuple(jpeg(shade) for shade in (10, 90, 170)), {"seeds": [5, 6, 7]}),
        skipped_group(32, "a bad one", "black image"),
        Group(33, "a boot", (jpeg(250),), {"seeds": [8]}),
    ]
    commit_shard(open_store(tmp_path), "d", 0, build_tar(groups))
    return str(tmp_path / shard_key("d", 0)), groups


def test_samples_have_the_caption_id_as_key_and_the_images_and_json_as_fields(
    shard: tuple[str, list[Group]],
) -> None:
    path, groups = shard
    samples = list(webdataset.WebDataset(path, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["000000031", "000000032", "000000033"]
    for sample, group in zip(samples, groups, strict=True):
        fields = {name for name in sample if not name.startswith("__")}
        assert fields == {"json", *(f"{number:02d}.jpg" for number in range(len(group.encoded)))}
        for number, image in enumerate(group.encoded):
            assert sample[f"{number:02d}.jpg"] == image
        wanted = {**group.info, "caption": group.caption, "caption_id": group.caption_id}
        assert json.loads(sample["json"]) == wanted


def test_its_own_decoder_gives_images_and_json(shard: tuple[str, list[Group]]) -> None:
    path, _ = shard
    dataset = webdataset.WebDataset(path, shardshuffle=False).decode("pil").select(lambda s: "00.jpg" in s)
    samples = list(dataset)
    assert [sample["json"]["caption"] for sample in samples] == ["a shoe, ü", "a boot"]
    assert [sample["00.jpg"].size for sample in samples] == [(16, 16)] * 2
    assert [sample["00.jpg"].getpixel((8, 8))[0] for sample in samples] == pytest.approx([10, 250], abs=2)
