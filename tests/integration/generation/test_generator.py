"""Generation with real (tiny, random) pipelines: same bits in any batch, diffusers' own images, refusals."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    UNet2DModel,
)
from diffusers.schedulers import AysSchedules
from safetensors.torch import load_file

from stablerep.captions import Caption
from stablerep.errors import InvalidInput, NotFound, StableRepError
from stablerep.generation import Generator, LoadedPipeline, Recipe, load_pipeline
from stablerep.generation.noise import draw_noise, make_generator, noise_seed
from stablerep.generation.pipeline import make_scheduler
from stablerep.shards import Group, build_tar, index_tar
from tests.pipelines import (
    make_random_consistency_pipeline,
    make_random_pipeline,
    make_random_xl_pipeline,
)

CAPTIONS = [
    Caption(index, f"a photo of the {look} {thing}")
    for index, (look, thing) in enumerate(
        (look, thing) for look in ("red", "grey", "dark") for thing in ("shoe", "boot", "shirt", "dress")
    )
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_pipeline(tmp_path_factory.mktemp("pipelines") / "sd")


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_xl_pipeline(tmp_path_factory.mktemp("pipelines") / "xl")


@pytest.fixture(scope="module")
def consistency(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_consistency_pipeline(tmp_path_factory.mktemp("pipelines") / "lcm")


def recipe_for(folder: Path, **changes: object) -> Recipe:
    fields = {
        "model": str(folder),
        "sampler": "ddim",
        "steps": 3,
        "guidance_scale": 2.0,
        "image_size": 32,
        "save_size": 32,
        "images_per_caption": 3,
        "batch_images": 8,
        "jpeg_quality": 95,
        "dtype": "float32",
    }
    return Recipe.model_validate(fields | changes)


def by_id(groups: Iterator[Group]) -> dict[int, Group]:
    return {group.caption_id: group for group in groups}


class TestSameBits:
    """The proof that a group does not depend on what stands beside it."""

    @pytest.mark.parametrize("batch_images", [3, 8, 16, 64])
    def test_latents_alone_and_in_two_batch_compositions(self, sd: Path, batch_images: int) -> None:
        generator = Generator(recipe_for(sd, batch_images=batch_images), seed=11)
        wanted = CAPTIONS[5]
        alone = generator.latents([wanted])
        first = generator.latents([CAPTIONS[0], wanted, *CAPTIONS[6:9]])
        second = generator.latents([*CAPTIONS[7:], *CAPTIONS[1:5], wanted])
        assert alone.shape == (3, 4, 8, 8)
        assert torch.equal(first[3:6], alone)
        assert torch.equal(second[-3:], alone)
        assert not torch.equal(first[:3], alone)

    def test_files_alone_and_in_another_batch(self, sd: Path) -> None:
        generator = Generator(recipe_for(sd), seed=11)
        alone = by_id(generator.generate([CAPTIONS[5]]))[5]
        among = by_id(generator.generate([*CAPTIONS[2:9]]))[5]
        assert among == alone
        assert len(set(alone.encoded)) == 3

    def test_tar_of_a_shard_made_again_by_another_process_state(self, sd: Path) -> None:
        recipe = recipe_for(sd)
        tar = build_tar(list(Generator(recipe, seed=11).generate(CAPTIONS)))
        torch.manual_seed(99)
        retried = Generator(recipe, seed=11)
        list(retried.generate(CAPTIONS[:5]))  # a retry on a worker that has done other work before
        assert build_tar(list(retried.generate(CAPTIONS))) == tar

    def test_tar_does_not_depend_on_the_cut_into_shards(self, sd: Path) -> None:
        generator = Generator(recipe_for(sd), seed=11)
        whole = list(generator.generate(CAPTIONS))
        pieces = [*generator.generate(CAPTIONS[:5]), *generator.generate(CAPTIONS[5:])]
        assert build_tar(pieces) == build_tar(whole)

    def test_seed_and_caption_id_change_every_image(self, sd: Path) -> None:
        recipe = recipe_for(sd)
        pipeline = load_pipeline(recipe)
        text = CAPTIONS[0].text
        first = next(Generator(recipe, seed=1, pipeline=pipeline).generate([Caption(0, text)]))
        for seed, id_ in ((2, 0), (1, 1)):
            other = next(Generator(recipe, seed=seed, pipeline=pipeline).generate([Caption(id_, text)]))
            assert not set(other.encoded) & set(first.encoded)

    @pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
    def test_other_pipelines_by_prompt(self, consistency: Path, guidance_scale: float) -> None:
        """This one draws noise at every step: from the image's own generator, or the bits would differ."""
        recipe = recipe_for(consistency, sampler="pipeline", steps=2, guidance_scale=guidance_scale)
        generator = Generator(recipe, seed=11)
        alone = by_id(generator.generate([CAPTIONS[5]]))[5]
        assert by_id(generator.generate(CAPTIONS[2:9]))[5] == alone
        assert len(set(alone.encoded)) == 3

    def test_stochastic_samplers_of_known_pipelines(self, sd: Path) -> None:
        recipe = recipe_for(sd, sampler="pipeline")
        pipeline = load_pipeline(recipe)
        ancestral = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
        pipeline = type(pipeline)(**{**vars(pipeline), "scheduler": ancestral})
        generator = Generator(recipe, seed=11, pipeline=pipeline)
        assert torch.equal(generator.latents(CAPTIONS[3:7])[3:6], generator.latents([CAPTIONS[4]]))


class TestAgainstDiffusers:
    """The same prompts and noise through the pipeline's own `__call__` give the same images."""

    @pytest.mark.parametrize("kind", ["sd", "xl"])
    @pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
    @pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
    def test_images_are_those_of_the_pipeline(
        self, request: pytest.FixtureRequest, kind: str, guidance_scale: float, sampler: str
    ) -> None:
        folder = request.getfixturevalue(kind)
        recipe = recipe_for(folder, guidance_scale=guidance_scale, sampler=sampler, save_size=32)
        generator = Generator(recipe, seed=5)
        with torch.inference_mode():
            ours = generator._sampler.decode(generator.latents(CAPTIONS[:2]))

        pipe = DiffusionPipeline.from_pretrained(folder)
        pipe.scheduler = make_scheduler(load_pipeline(recipe), sampler)
        seeds = [noise_seed(5, caption.id, index) for caption in CAPTIONS[:2] for index in range(3)]
        theirs = pipe(
            prompt=[caption.text for caption in CAPTIONS[:2] for _ in range(3)],
            latents=draw_noise([make_generator(seed) for seed in seeds], (4, 8, 8)),
            num_inference_steps=3,
            guidance_scale=guidance_scale,
            height=32,
            width=32,
            output_type="np",
        ).images
        assert np.abs(ours.permute(0, 2, 3, 1).numpy() - theirs).max() < 1e-4
        assert theirs.std() > 0.01

    @pytest.mark.parametrize("kind", ["sd", "xl"])
    @pytest.mark.parametrize("share", [0.3, 0.75])
    def test_guidance_for_a_share_of_the_steps(
        self, request: pytest.FixtureRequest, kind: str, share: float
    ) -> None:
        """As diffusers' documentation ends it: by a callback that drops the empty prompt."""
        folder = request.getfixturevalue(kind)
        recipe = recipe_for(folder, guidance_scale=4.0, steps=8, save_size=32, guidance_until=share)
        generator = Generator(recipe, seed=5)
        with torch.inference_mode():
            ours = generator._sampler.decode(generator.latents(CAPTIONS[:2]))
        until = round(8 * share)
        dropped = ["prompt_embeds", *(["add_text_embeds", "add_time_ids"] if kind == "xl" else [])]

        def drop(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if step == until - 1:
                pipe._guidance_scale = 1.0
                return {name: tensors[name].chunk(2)[-1] for name in dropped}
            return {}

        pipe = DiffusionPipeline.from_pretrained(folder)
        pipe.scheduler = make_scheduler(load_pipeline(recipe), "ddim")
        seeds = [noise_seed(5, caption.id, index) for caption in CAPTIONS[:2] for index in range(3)]
        theirs = pipe(
            prompt=[caption.text for caption in CAPTIONS[:2] for _ in range(3)],
            latents=draw_noise([make_generator(seed) for seed in seeds], (4, 8, 8)),
            num_inference_steps=8,
            guidance_scale=4.0,
            height=32,
            width=32,
            output_type="np",
            callback_on_step_end=drop,
            callback_on_step_end_tensor_inputs=dropped,
        ).images
        assert np.abs(ours.permute(0, 2, 3, 1).numpy() - theirs).max() < 1e-4
        whole = Generator(recipe.model_copy(update={"guidance_until": 1.0}), seed=5)
        assert not torch.allclose(whole.latents(CAPTIONS[:2]), generator.latents(CAPTIONS[:2]), atol=1e-3)

    @pytest.mark.parametrize("kind", ["sd", "xl"])
    def test_align_your_steps(self, request: pytest.FixtureRequest, kind: str) -> None:
        folder = request.getfixturevalue(kind)
        recipe = recipe_for(folder, sampler="dpm++", schedule="ays", steps=10, save_size=32)
        generator = Generator(recipe, seed=5)
        with torch.inference_mode():
            ours = generator._sampler.decode(generator.latents(CAPTIONS[:1]))
        pipe = DiffusionPipeline.from_pretrained(folder)
        pipe.scheduler = make_scheduler(load_pipeline(recipe), "dpm++")
        theirs = pipe(
            prompt=[CAPTIONS[0].text] * 3,
            latents=draw_noise([make_generator(noise_seed(5, 0, index)) for index in range(3)], (4, 8, 8)),
            timesteps=AysSchedules[f"StableDiffusion{'XL' if kind == 'xl' else ''}Timesteps"],
            guidance_scale=recipe.guidance_scale,
            height=32,
            width=32,
            output_type="np",
        ).images
        assert np.abs(ours.permute(0, 2, 3, 1).numpy() - theirs).max() < 1e-4

    def test_what_diffusers_alone_can_sample_has_its_own_schedule_and_guidance(self, sd: Path) -> None:
        pipeline = load_pipeline(recipe_for(sd))
        ancestral = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
        pipeline = type(pipeline)(**{**vars(pipeline), "scheduler": ancestral})
        recipe = recipe_for(sd, sampler="pipeline", guidance_until=0.5)
        with pytest.raises(InvalidInput, match="another guidance_until"):
            Generator(recipe, pipeline=pipeline)

    def test_normalised_latents_of_xl_are_undone(self, xl: Path) -> None:
        recipe = recipe_for(xl)
        pipeline = load_pipeline(recipe)
        pipeline.pipe.vae.register_to_config(
            latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 0.5, 2.0, 1.5]
        )
        generator = Generator(recipe, seed=5, pipeline=pipeline)
        latents = generator.latents(CAPTIONS[:1])
        theirs = pipeline.pipe(
            prompt=[CAPTIONS[0].text] * 3,
            latents=draw_noise([make_generator(noise_seed(5, 0, index)) for index in range(3)], (4, 8, 8)),
            num_inference_steps=3,
            guidance_scale=2.0,
            height=32,
            width=32,
            output_type="np",
        ).images
        assert np.abs(generator._sampler.decode(latents).permute(0, 2, 3, 1).numpy() - theirs).max() < 1e-4

    def test_ddim_adds_no_noise_and_takes_the_recipes_steps(self, sd: Path) -> None:
        steps: list[int] = []
        generator = Generator(recipe_for(sd, steps=7, batch_images=3))
        list(generator.generate(CAPTIONS[:1], on_step=lambda: steps.append(1)))
        assert len(steps) == 7
        scheduler = make_scheduler(generator.pipeline, "ddim")
        assert isinstance(scheduler, DDIMScheduler)
        assert scheduler.config.prediction_type == "v_prediction"


class TestGroups:
    def test_strings_in_images_out(self, sd: Path) -> None:
        groups = list(Generator(recipe_for(sd, save_size=16)).generate(["a red shoe", "a grey boot"]))
        assert [(group.caption_id, group.caption) for group in groups] == [
            (0, "a red shoe"),
            (1, "a grey boot"),
        ]
        assert all(image.size == (16, 16) for group in groups for image in group.images)
        assert [len(group.images) for group in groups] == [3, 3]

    def test_info_names_recipe_and_seeds(self, sd: Path) -> None:
        recipe = recipe_for(sd)
        group = next(Generator(recipe, seed=4).generate([Caption(17, "a red shoe")]))
        assert group.info == {
            "recipe_digest": recipe.digest,
            "seeds": [noise_seed(4, 17, index) for index in range(3)],
        }

    def test_captions_longer_than_the_text_encoder_reads_are_flagged(self, sd: Path) -> None:
        groups = list(Generator(recipe_for(sd)).generate(["a red shoe " * 10, "a red shoe"]))
        assert [group.info.get("truncated") for group in groups] == [True, None]

    def test_captions_are_drawn_as_needed_and_groups_given_early(self, sd: Path) -> None:
        group_pixels: list[int] = []

        def source() -> Iterator[str]:
            for index in range(100):
                group_pixels.append(index)
                yield "a red shoe"

        groups = Generator(recipe_for(sd)).generate(source())
        assert next(groups).caption_id == 0
        assert len(group_pixels) == 3  # 9 rows fill the batch of 8

    def test_each_caption_is_encoded_once_and_the_empty_one_once(self, sd: Path) -> None:
        recipe = recipe_for(sd)
        pipeline = load_pipeline(recipe)
        shapes: list[torch.Size] = []
        pipeline.pipe.text_encoder.register_forward_hook(
            lambda module, inputs, output: shapes.append(output[0].shape)
        )
        generator = Generator(recipe, pipeline=pipeline)
        before = len(shapes)
        list(generator.generate(CAPTIONS))
        assert before <= 2
        assert len(shapes) - before == len(CAPTIONS)
        assert {shape[0] for shape in shapes} == {1}

    def test_every_batch_has_the_recipes_shape(self, sd: Path) -> None:
        recipe = recipe_for(sd, guidance_scale=1.0)
        pipeline = load_pipeline(recipe)
        rows: set[int] = set()
        pipeline.pipe.unet.conv_in.register_forward_pre_hook(
            lambda module, inputs: rows.add(inputs[0].shape[0])
        )
        pipeline.pipe.vae.decoder.conv_in.register_forward_pre_hook(
            lambda module, inputs: rows.add(inputs[0].shape[0])
        )
        list(Generator(recipe, pipeline=pipeline).generate(CAPTIONS[:5]))
        assert rows == {8}

    def test_no_captions_no_groups(self, sd: Path) -> None:
        assert list(Generator(recipe_for(sd)).generate([])) == []


class TestFailures:
    def test_a_caption_that_cannot_be_encoded_is_skipped(self, sd: Path) -> None:
        good = list(Generator(recipe_for(sd)).generate(CAPTIONS[:3]))
        captions = [CAPTIONS[0], Caption(50, "a lone \ud800 surrogate"), *CAPTIONS[1:3]]
        groups = list(Generator(recipe_for(sd)).generate(captions))
        assert [group.caption_id for group in groups] == [0, 50, 1, 2]
        assert "text encoding failed" in groups[1].info["error"]
        assert groups[1].encoded == ()
        assert [groups[0], *groups[2:]] == good

    def test_a_caption_whose_images_are_not_finite_is_skipped(self, sd: Path) -> None:
        recipe = recipe_for(sd)
        pipeline = load_pipeline(recipe)
        token = pipeline.pipe.tokenizer("bag").input_ids[1]
        with torch.no_grad():
            pipeline.pipe.text_encoder.get_input_embeddings().weight[token] = float("nan")
        captions = [CAPTIONS[0], Caption(50, "a red bag"), CAPTIONS[1]]
        groups = list(Generator(recipe, pipeline=pipeline).generate(captions))
        assert [bool(group.encoded) for group in groups] == [True, False, True]
        assert "not finite" in groups[1].info["error"]
        assert [groups[0], groups[2]] == list(Generator(recipe).generate(CAPTIONS[:2]))

    def test_skipped_captions_go_into_the_tar(self, sd: Path) -> None:
        groups = list(Generator(recipe_for(sd)).generate([CAPTIONS[0], Caption(50, "bad \ud800")]))
        shard = [groups[0], Group(50, "bad", (), groups[1].info)]
        index = index_tar(build_tar(shard))
        assert [caption.caption_id for caption in index.skipped] == [50]

    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory"),
            torch.AcceleratorError("CUDA error: out of memory"),
            RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_a_batch_too_large_for_memory_is_halved_and_recorded(self, sd: Path, error: Exception) -> None:
        generator = Generator(recipe_for(sd))
        first = list(generator.generate(CAPTIONS[:5], on_step=out_of_memory(times=1, error=error)))
        assert generator.batch_images == 4
        assert [group.caption_id for group in first] == list(range(5))
        assert all(len(group.encoded) == 3 and group.info["batch_images"] == 4 for group in first)

    def test_a_caption_on_which_the_pipeline_fails_is_skipped_and_the_others_are_what_they_were(
        self, sd: Path
    ) -> None:
        recipe = recipe_for(sd)
        pipeline = load_pipeline(recipe)
        fails_on(pipeline, "bag")
        captions = [*CAPTIONS[:4], Caption(50, "a red bag"), *CAPTIONS[4:9], Caption(51, "a dark bag")]
        groups = list(Generator(recipe, seed=3, pipeline=pipeline).generate(captions))
        assert [group.caption_id for group in groups] == [caption.id for caption in captions]
        bad = [group for group in groups if not group.encoded]
        assert [group.caption_id for group in bad] == [50, 51]
        assert all("failed on it: RuntimeError: no such token" in group.info["error"] for group in bad)
        good = [group for group in groups if group.encoded]
        assert good == list(Generator(recipe, seed=3).generate(CAPTIONS[:9]))

    def test_a_shard_of_bad_captions_alone_is_made_and_all_are_recorded(self, sd: Path) -> None:
        pipeline = load_pipeline(recipe_for(sd))
        fails_on(pipeline, "bag")
        groups = list(Generator(recipe_for(sd), pipeline=pipeline).generate(["a red bag", "a grey bag"]))
        assert [bool(group.info["error"]) for group in groups] == [True, True]

    def test_a_pipeline_that_fails_whatever_the_caption_is_an_error_after_two_batches(self, sd: Path) -> None:
        pipeline = load_pipeline(recipe_for(sd))
        batches: list[int] = []
        assert pipeline.denoiser is not None
        pipeline.denoiser.register_forward_pre_hook(lambda module, inputs: batches.append(1))
        fails_on(pipeline, "a")
        with pytest.raises(StableRepError, match="failed on a batch: RuntimeError: no such token"):
            list(Generator(recipe_for(sd), pipeline=pipeline).generate(CAPTIONS))
        assert len(batches) == 2

    def test_a_failure_that_does_not_come_back_costs_no_caption(self, sd: Path) -> None:
        pipeline = load_pipeline(recipe_for(sd))
        left = [1]

        def fail(module: torch.nn.Module, inputs: object) -> None:
            if left[0]:
                left[0] -= 1
                raise RuntimeError("cuDNN had a bad day")

        pipeline.pipe.vae.decoder.conv_in.register_forward_pre_hook(fail)
        groups = list(Generator(recipe_for(sd), seed=3, pipeline=pipeline).generate(CAPTIONS[:5]))
        assert groups == list(Generator(recipe_for(sd), seed=3).generate(CAPTIONS[:5]))

    @pytest.mark.parametrize("ahead", [1, 3])
    @pytest.mark.parametrize("layout", ["slots", "packed"])
    def test_images_that_are_waited_for_later_are_the_same(self, sd: Path, ahead: int, layout: str) -> None:
        """Batches in flight, as on a GPU; captions fail, images are not finite, memory is short."""
        recipe = recipe_for(sd, layout=layout, batch_images=9)

        def made(ahead: int) -> tuple[list[Group], int]:
            pipeline = load_pipeline(recipe)
            fails_on(pipeline, "bag")
            token = pipeline.pipe.tokenizer("coat").input_ids[1]
            with torch.no_grad():
                pipeline.pipe.text_encoder.get_input_embeddings().weight[token] = float("nan")
            generator = Generator(recipe, seed=3, pipeline=pipeline, ahead=ahead)
            texts = ["a red bag", "a red coat", "bad \ud800"]
            captions = [
                *CAPTIONS[:4],
                *(Caption(50 + n, text) for n, text in enumerate(texts)),
                *CAPTIONS[4:9],
            ]
            groups = list(generator.generate(captions))
            groups += generator.generate(CAPTIONS, on_step=out_of_memory(times=1))
            return groups, generator.batch_images

        groups, size = made(ahead)
        assert size < recipe.batch_images
        assert [bool(group.info.get("error")) for group in groups] == [4 <= at < 7 for at in range(24)]
        assert (groups, size) == made(0)

    def test_a_batch_is_launched_before_the_one_before_is_waited_for(self, sd: Path) -> None:
        steps: list[int] = []
        generator = Generator(
            recipe_for(sd, images_per_caption=4), ahead=1
        )  # two captions a batch, three steps
        groups = generator.generate(CAPTIONS[:6], on_step=lambda: steps.append(1))
        assert [(next(groups).caption_id, len(steps)) for _ in range(6)] == [
            (0, 6), (1, 6), (2, 9), (3, 9), (4, 9), (5, 9)
        ]  # fmt: skip

    def test_a_halved_batch_grows_back_with_later_shards(self, sd: Path) -> None:
        halvings: list[int] = []
        generator = Generator(recipe_for(sd), seed=3, on_halved=lambda: halvings.append(1))
        list(generator.generate(CAPTIONS[:2], on_step=out_of_memory(times=2)))
        assert (generator.batch_images, len(halvings)) == (2, 2)
        sizes = []
        while generator.batch_images < 8:
            groups = list(generator.generate(CAPTIONS[:2]))
            sizes.append(generator.batch_images)
        assert sizes == [2, 4, 8]
        assert groups == list(Generator(recipe_for(sd), seed=3).generate(CAPTIONS[:2]))

    def test_stages_are_timed(self, sd: Path) -> None:
        stages: list[tuple[str, float]] = []
        generator = Generator(recipe_for(sd), on_stage=lambda stage, seconds: stages.append((stage, seconds)))
        before = time.perf_counter()
        list(generator.generate(CAPTIONS[:4]))  # 12 images in batches of 8
        assert 0.5 < sum(seconds for _, seconds in stages) / (time.perf_counter() - before) < 1
        names = [stage for stage, _ in stages]
        assert {name: names.count(name) for name in names} == {
            "text": 2, "denoise": 2, "decode": 2, "encode": 4
        }  # fmt: skip
        assert all(seconds > 0 for stage, seconds in stages if stage != "text")

    def test_memory_for_not_even_one_image_is_an_error(self, sd: Path) -> None:
        with pytest.raises(StableRepError, match="out of memory with one image of 32 pixels"):
            list(Generator(recipe_for(sd)).generate(CAPTIONS[:1], on_step=out_of_memory(times=10)))

    def test_batch_limit_is_recorded_when_it_bites(self, sd: Path) -> None:
        assert next(Generator(recipe_for(sd), batch_limit=2).generate(CAPTIONS)).info["batch_images"] == 2
        assert "batch_images" not in next(Generator(recipe_for(sd), batch_limit=50).generate(CAPTIONS)).info

    def test_what_on_step_raises_ends_the_generation(self, sd: Path) -> None:
        class Enough(Exception):
            pass

        def stop() -> None:
            raise Enough

        with pytest.raises(Enough):
            list(Generator(recipe_for(sd)).generate(CAPTIONS, on_step=stop))


class TestRefusals:
    def test_a_name_that_is_neither_folder_nor_on_the_hub(self) -> None:
        with pytest.raises(NotFound, match="nobody-here/no-such-model is no folder here"):
            load_pipeline(recipe_for(Path("nobody-here/no-such-model")))

    def test_a_name_that_cannot_be_one(self) -> None:
        with pytest.raises((InvalidInput, NotFound), match="model: "):
            load_pipeline(recipe_for(Path("../a b/c")))

    def test_an_unknown_builtin(self) -> None:
        with pytest.raises(InvalidInput, match="builtin:fashion") as caught:
            load_pipeline(recipe_for(Path("builtin:shoes")))
        assert caught.value.field == "model"

    @pytest.mark.parametrize(
        ("part", "safe", "pickled"),
        [
            ("unet", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
            ("text_encoder", "model.safetensors", "pytorch_model.bin"),
        ],
    )
    def test_pickled_weights(self, tmp_path: Path, part: str, safe: str, pickled: str) -> None:
        folder = make_random_pipeline(tmp_path / "pickled")
        torch.save(load_file(folder / part / safe), folder / part / pickled)
        (folder / part / safe).unlink()
        with pytest.raises(InvalidInput, match="safetensors only"):
            load_pipeline(recipe_for(folder))

    def test_code_in_the_folder_is_not_run(self, tmp_path: Path) -> None:
        folder = make_random_pipeline(tmp_path / "code")
        index = folder / "model_index.json"
        index.write_text(index.read_text().replace('"StableDiffusionPipeline"', '["mine", "Mine"]'))
        (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
        with pytest.raises(InvalidInput, match="model"):
            load_pipeline(recipe_for(folder))
        assert not (tmp_path / "ran").exists()

    def test_a_folder_without_a_pipeline(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match=r"model_index\.json"):
            load_pipeline(recipe_for(tmp_path))

    def test_a_pipeline_without_prompts(self, tmp_path: Path) -> None:
        unet = UNet2DModel(
            sample_size=8,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
        )
        DDPMPipeline(unet, DDIMScheduler()).save_pretrained(tmp_path / "ddpm")
        with pytest.raises(InvalidInput, match="takes no prompt"):
            load_pipeline(recipe_for(tmp_path / "ddpm"))

    def test_a_device_that_is_not_there(self, sd: Path) -> None:
        with pytest.raises(InvalidInput) as caught:
            load_pipeline(recipe_for(sd), "cuda:77")
        assert caught.value.field == "device"

    def test_an_image_size_that_latents_do_not_divide(self, tmp_path: Path, sd: Path) -> None:
        recipe = recipe_for(sd).model_copy(update={"image_size": 34})
        with pytest.raises(InvalidInput) as caught:
            Generator(recipe)
        assert caught.value.field == "image_size"

    def test_a_pipeline_loaded_for_another_recipe(self, sd: Path) -> None:
        loaded = load_pipeline(recipe_for(sd))
        with pytest.raises(InvalidInput, match="wants"):
            Generator(recipe_for(sd, dtype="bfloat16"), pipeline=loaded)


def fails_on(pipeline: LoadedPipeline, word: str) -> None:
    """Makes the denoiser raise for a batch with a caption that has the word, as a broken kernel would."""
    token = pipeline.pipe.tokenizer(word).input_ids[1]

    def mark(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        if (inputs[0] == token).any():
            output.last_hidden_state.fill_(torch.nan)

    def check(module: torch.nn.Module, inputs: tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]) -> None:
        if any(text.isnan().any() for text in inputs[2]):
            raise RuntimeError("no such token")

    pipeline.pipe.text_encoder.register_forward_hook(mark)
    assert pipeline.denoiser is not None
    pipeline.denoiser.register_forward_pre_hook(check)


USED_UP = torch.OutOfMemoryError("CUDA out of memory")


def out_of_memory(*, times: int, error: Exception = USED_UP) -> Callable[[], None]:
    """Raises, so often, what torch raises when the GPU's memory is used up."""
    left = [times]

    def step() -> None:
        if left[0]:
            left[0] -= 1
            raise error

    return step


def test_pipeline_in_the_package_gives_the_same_bits_in_any_batch(tiny_recipe: Recipe) -> None:
    recipe = tiny_recipe.model_copy(update={"batch_images": 64, "images_per_caption": 4})
    generator = Generator(recipe, seed=11, device="cpu")
    kinds = (
        "t-shirt",
        "dress",
        "coat",
        "sandal",
        "sneaker",
        "bag",
        "ankle boot",
        "shirt",
        "pullover",
        "trousers",
    )
    texts = [f"{tone} plain {kind}" for tone in ("dark", "pale") for kind in kinds]
    captions = [Caption(index, text) for index, text in enumerate(texts)]
    alone = generator.latents([captions[9]])
    assert torch.equal(generator.latents(captions)[36:40], alone)
    assert torch.equal(generator.latents([captions[3], captions[9], *captions[14:]])[4:8], alone)
    assert next(iter(generator.generate([captions[9]]))) == by_id(generator.generate(captions))[9]
