"""Estimates of jobs: counts are exact, all else says where it comes from, storage is as it turns out."""

import io
import json
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from PIL import Image
from typer.testing import CliRunner

from stablerep.captions import Caption, read_captions
from stablerep.captions.source import open_source
from stablerep.cli import app
from stablerep.config.recipe import Preset, load, load_recipe
from stablerep.errors import InvalidInput
from stablerep.jobs.estimate import (
    Figure,
    assumed_image_bytes,
    count_captions,
    estimate_job,
    images_in_batches,
    reported_speed,
)
from stablerep.shards import Group, build_tar, commit_shard, write_captions
from stablerep.storage import open_store
from stablerep.v1 import generator_pb2 as pb
from stablerep.v1 import generator_pb2_grpc as rpc


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("".join(f"caption {number}\n" for number in range(100)) + "\n\n")
    return path


def jpeg(size, seed, quality=95):
    noise = Image.effect_noise((size // 4, size // 4), 30 + seed).convert("RGB").resize((size, size))
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


class TestCounts:
    def test_captions_images_and_shards_are_exact(self):
        found = estimate_job(10_000_001, load("sd15"), speed=None)
        assert (found.captions, found.images, found.shards) == (10_000_001, 100_000_010, 625_001)
        assert found.hours is None

    def test_captions_are_counted_as_they_come(self):
        alive = 0

        def stream():
            nonlocal alive
            for number in range(30_000):
                alive = number
                yield Caption(number, f"caption {number}")

        told = []
        counted = count_captions(stream(), lambda count: told.append((count, alive)))
        assert counted.captions == 30_000
        assert told == [(10_000, 9_999), (20_000, 19_999), (30_000, 29_999)]
        assert counted.first[:2] == ("caption 0", "caption 1")
        assert len(counted.first) < 1000

    def test_lines_that_are_no_captions_do_not_count(self, captions):
        assert count_captions(read_captions(open_source(str(captions)))).captions == 100


class TestSpeed:
    def test_the_papers_figure_holds_for_its_own_recipe_and_is_named(self):
        figure = reported_speed(load_recipe("sd15"), "A100")
        assert figure.value == 0.8
        assert "reported" in figure.source
        assert "A100" in figure.source
        assert reported_speed(load_recipe("sd15"), "v100").value == 2.2
        assert reported_speed(load_recipe("sd15", {"steps": "25"}), "a100").value == 0.4

    def test_cc12m_at_ten_images_costs_what_the_reference_derives(self):
        speed = reported_speed(load_recipe("sd15"), "a100")
        found = estimate_job(10_000_000, load("sd15"), speed=speed)
        assert found.hours.value == pytest.approx(22_222, rel=0.001)

    @pytest.mark.parametrize(
        "change",
        [{"image_size": "768"}, {"guidance_scale": "1"}, {"dtype": "float32"}, {"model": "some/other-model"}],
    )
    def test_nothing_is_said_of_another_recipe(self, change):
        assert reported_speed(load_recipe("sd15", change), "a100") is None
        assert reported_speed(load_recipe("tiny"), "a100") is None

    def test_nothing_is_said_of_another_gpu(self):
        with pytest.raises(InvalidInput) as caught:
            reported_speed(load_recipe("sd15"), "h100")
        assert caught.value.field == "gpu"

    def test_padding_of_batches_is_paid_for(self):
        assert [images_in_batches(count, 16) for count in (0, 1, 16, 17)] == [0, 16, 16, 32]
        preset = Preset(load_recipe("sd15", {"images_per_caption": "1"}), captions_per_shard=17)
        found = estimate_job(34, preset, speed=Figure(3600, "test"))
        assert (found.images, found.hours.value) == (34, 40)


class TestStorage:
    @pytest.mark.parametrize(("size", "images", "captions", "a_shard"), [(256, 10, 32, 16), (32, 4, 320, 32)])
    def test_it_is_what_shards_of_such_images_take(self, tmp_path, size, images, captions, a_shard):
        store = open_store(tmp_path)
        made = [jpeg(size, seed, quality=70 + 3 * seed) for seed in range(10)]
        info = {"recipe_digest": "d" * 64, "seeds": [2**62 + n for n in range(images)]}
        total = 0
        for shard in range(captions // a_shard):
            ids = range(shard * a_shard, (shard + 1) * a_shard)
            texts = [Caption(n, f"a caption of some words {n}") for n in ids]
            write_captions(store, "shoes", shard, texts)
            encoded = [tuple(made[(n + index) % 10] for index in range(images)) for n in ids]
            groups = [Group(c.id, c.text, of, info) for c, of in zip(texts, encoded, strict=True)]
            commit_shard(store, "shoes", shard, build_tar(groups))
            total += sum(len(image) for of in encoded for image in of)
        taken = sum(info.size for info in store.list("datasets/shoes/"))
        recipe = load_recipe("tiny", {"images_per_caption": str(images), "batch_images": str(2 * images)})
        mean = Figure(total / (captions * images), "measured")
        found = estimate_job(captions, Preset(recipe, a_shard), speed=None, image_bytes=mean)
        assert found.storage_bytes.value == pytest.approx(taken, rel=0.1)

    def test_an_assumed_size_says_that_it_is_one_and_grows_with_quality_and_side(self):
        sizes = {
            (side, quality): assumed_image_bytes(
                load_recipe("sd15", {"save_size": str(side), "jpeg_quality": str(quality)})
            ).value
            for side in (64, 256)
            for quality in (1, 50, 95, 100)
        }
        assert all(sizes[64, quality] < sizes[256, quality] for quality in (1, 50, 95, 100))
        assert all(
            sizes[side, 1] < sizes[side, 50] < sizes[side, 95] < sizes[side, 100] for side in (64, 256)
        )
        assert 26_000 < sizes[256, 95] < 31_000
        assert "assumed" in assumed_image_bytes(load_recipe("sd15")).source

    def test_redis_needs_a_bit_a_shard(self):
        found = estimate_job(16_000_000, load("sd15"), speed=None)
        assert found.shards == 1_000_000
        assert 125_000 < found.redis_bytes < 200_000


class TestCommand:
    @staticmethod
    def run(*words):
        return CliRunner().invoke(app, ["estimate", *map(str, words)])

    def test_the_reported_figure_is_named(self, captions):
        shown = self.run(captions).output
        assert "1,000 " in shown
        assert "0.8 s an image, reported for SD 1.5 on one A100" in shown

    def test_ones_own_figure_counts_first(self, captions):
        shown = self.run(captions, "--seconds-per-image", 3.6, "--set", "batch_images=30").output
        assert "1.14 " in shown  # shards of 160 images, and one of 40, in batches of 30
        assert "given by --seconds-per-image" in shown

    def test_no_speed_means_no_hours(self, captions):
        shown = self.run(captions, "--preset", "tiny").output
        assert "unknown" in shown
        assert "--measure N" in shown

    def test_what_cannot_be_counted_here_is_refused(self, captions, tmp_path):
        for words in (("store:captions.txt",), (tmp_path / "none.txt",), (captions, "--gpu", "abacus")):
            result = self.run(*words)
            assert isinstance(result.exception, Exception)
            assert result.exit_code == 1

    def test_a_worker_is_timed_warm(self, captions):
        worker = _SlowFirst()
        server = grpc.server(ThreadPoolExecutor(2))
        rpc.add_GeneratorServiceServicer_to_server(worker, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            where = ("--worker", f"127.0.0.1:{port}")
            shown = self.run(captions, "--preset", "tiny", *where, "--measure", 128).output
        finally:
            server.stop(None)
        assert worker.captions == ["caption 0", "caption 1", "caption 2"]
        (line,) = [line for line in shown.splitlines() if line.startswith("worker-hours")]
        seconds = float(line.split(" s an image")[0].split()[-1])
        assert 2 * 0.1 / 128 < seconds < 2 * 0.4 / 128  # two groups of 4, each in a batch of 64
        assert "measured on the worker" in line
        assert "7 bytes an image" in shown


class _SlowFirst(rpc.GeneratorServiceServicer):
    """A worker that loads its pipeline at the first preview, in a second; then each takes 0.1 s."""

    def __init__(self):
        self.captions = []

    def GetStatus(self, request, context):
        return pb.GeneratorStatus(worker="w", state="IDLE")

    def PreviewGroup(self, request, context):
        time.sleep(0.1 if self.captions else 1.0)
        self.captions.append(request.caption)
        return pb.PreviewGroupResponse(images=[json.dumps([1, 2]).encode() + b"!"] * 4)
