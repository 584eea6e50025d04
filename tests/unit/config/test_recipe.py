"""Recipes: ranges, overrides, presets, and a digest that must never change for the same values."""

import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from stablerep.config.recipe import Recipe, load, load_preset, load_recipe, preset_names
from stablerep.errors import InvalidInput

GOLDEN = {
    "flat": "939f0c00081d4cbc986af4d64af981e6a3a04a5d960c32afa58b38ccf7e0120b",
    "sd15": "106bdd668f1e45acb13cf432251985f26382fa7d014dd30b0e686f5b43cb132b",
    "tiny": "7ae47ac53888cca496395cf27498e5b2f49a3fb530d1485109f546fdbb5dcf7c",
}
BEFORE_SLOTS = {
    "sd15": ("b8fe73d2f10377517400c357008f25b6b9a8ebaf02e4f84a2fa6afc669d0e9ca", "16"),
    "tiny": ("45602136f39876ab947089212bb248887a4eb8b84fda231ea48d81246d61ce94", "64"),
}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_digest_of_a_preset_is_the_one_of_every_earlier_version(name):
    assert load_recipe(name).digest == GOLDEN[name]
    if name in BEFORE_SLOTS:
        digest, batch = BEFORE_SLOTS[name]
        assert load_recipe(name, {"layout": "packed", "batch_images": batch}).digest == digest


def test_digest_is_the_same_in_another_process_with_another_hash_seed():
    code = "from stablerep.config.recipe import load_recipe; print(load_recipe('tiny').digest)"
    for hash_seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert out.stdout.strip() == GOLDEN["tiny"]


def test_each_field_changes_the_digest():
    other = {
        "model": "other/model",
        "revision": "v2",
        "sampler": "dpm++",
        "steps": "21",
        "guidance_scale": "2.5",
        "image_size": "64",
        "save_size": "16",
        "images_per_caption": "2",
        "batch_images": "60",
        "jpeg_quality": "94",
        "dtype": "bfloat16",
        "layout": "packed",
        "guidance_until": "0.5",
    }
    assert {*other, "schedule"} == set(Recipe.model_fields)
    digests = {load_recipe("tiny", {field: value}).digest for field, value in other.items()}
    assert len(digests | {load_recipe("tiny").digest}) == len(other) + 1
    ten = {"sampler": "dpm++", "steps": "10"}
    assert load_recipe("tiny", ten).digest != load_recipe("tiny", {**ten, "schedule": "ays"}).digest


def test_fields_that_came_later_leave_digests_as_they_were():
    assert load_recipe("sd15").digest == PAPER
    assert load_recipe("sd15", {"guidance_until": "1", "schedule": ""}).digest == PAPER


PAPER = "106bdd668f1e45acb13cf432251985f26382fa7d014dd30b0e686f5b43cb132b"


@pytest.mark.parametrize("changes", [{}, {"sampler": "dpm++"}, {"steps": "10"}])
def test_align_your_steps_has_ten_of_dpm(changes):
    with pytest.raises(InvalidInput, match=r"schedule: schedule ays has 10 steps of dpm\+\+"):
        load_recipe("sd15", {"schedule": "ays", **changes})


def test_faster_presets_are_recipes_of_their_own():
    recipes = [load_recipe(name) for name in ("sd15", "sd15-25", "sd15-fast")]
    assert [recipe.steps for recipe in recipes] == [50, 25, 10]
    assert len({recipe.digest for recipe in recipes}) == 3
    same = {"sampler", "steps", "schedule"}
    assert len({recipe.model_dump_json(exclude=same) for recipe in recipes}) == 1


def test_a_number_written_in_two_ways_is_one_recipe():
    assert load_recipe("tiny", {"guidance_scale": "2"}) == load_recipe("tiny", {"guidance_scale": "2.0"})
    assert load_recipe("tiny", {"guidance_scale": "2"}).digest == load_recipe("tiny").digest


def test_a_revision_is_not_carried_over_to_another_model(tmp_path):
    own = load_recipe("tiny").revision
    assert own
    assert load_recipe("tiny", {"steps": "3", "model": "builtin:fashion"}).revision == own
    assert load_recipe("tiny", {"model": "other/model"}).revision == ""
    assert load_recipe("tiny", {"model": "other/model", "revision": "v1"}).revision == "v1"
    (tmp_path / "mine.yaml").write_text("preset: tiny\nmodel: other/model\n")
    assert load_recipe(str(tmp_path / "mine.yaml")).revision == ""


def test_sd15_is_the_paper():
    preset = load_preset("sd15")
    assert preset.captions_per_shard == 16
    assert preset.recipe == Recipe(
        model="stable-diffusion-v1-5/stable-diffusion-v1-5",
        sampler="ddim",
        steps=50,
        guidance_scale=2.0,
        image_size=512,
        save_size=256,
        images_per_caption=10,
        batch_images=20,
        jpeg_quality=95,
        dtype="float16",
        layout="slots",
    )


@pytest.mark.parametrize(("images", "captions"), [("10", 16), ("2", 80), ("1", 160), ("99", 1)])
def test_a_shard_is_so_much_work_whatever_a_caption_has(images, captions):
    recipe = {"images_per_caption": images, "batch_images": images}
    assert load_preset("sd15", recipe).captions_per_shard == captions


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ("preset: sd15\nimages_per_shard: 400\n", 40),
        ("preset: sd15\ncaptions_per_shard: 7\n", 7),
        ("preset: sd15\nimages_per_caption: 5\n", 32),
        ("preset: sd15\nimages_per_shard: 10000000\n", 10_000),
        ("preset: sd15\nimages_per_shard: 400\ncaptions_per_shard: 7\n", 7),
    ],
)
def test_a_file_says_how_large_its_shards_are(tmp_path, text, captions):
    (tmp_path / "mine.yaml").write_text(text)
    assert load(str(tmp_path / "mine.yaml")).captions_per_shard == captions


def test_every_preset_loads():
    assert {"sd15", "tiny"} <= set(preset_names())
    for name in preset_names():
        assert load_preset(name).captions_per_shard >= 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ""),
        ("model", "a\nb"),
        ("sampler", "euler"),
        ("steps", "0"),
        ("steps", "1001"),
        ("steps", "many"),
        ("steps", "2.5"),
        ("guidance_scale", "-0.1"),
        ("guidance_scale", "50.1"),
        ("guidance_scale", "nan"),
        ("guidance_scale", "inf"),
        ("image_size", "33"),
        ("image_size", "0"),
        ("save_size", "40"),
        ("images_per_caption", "0"),
        ("images_per_caption", "100"),
        ("batch_images", "0"),
        ("jpeg_quality", "101"),
        ("dtype", "int8"),
        ("colour", "red"),
        ("captions_per_shard", "8"),
        ("images_per_shard", "8"),
        ("digest", "0"),
    ],
)
def test_a_bad_override_names_its_field(field, value):
    with pytest.raises(InvalidInput) as caught:
        load_recipe("tiny", {field: value})
    assert caught.value.field == field


def test_unknown_preset_lists_what_there_is():
    with pytest.raises(InvalidInput, match="flat, sd15, sd15-25, sd15-fast, tiny") as caught:
        load_recipe("sd16")
    assert caught.value.field == "preset"


def test_a_preset_name_never_opens_a_file_outside_the_package(tmp_path):
    (tmp_path / "mine.yaml").write_text("preset: tiny\n")
    for name in (str(tmp_path / "mine"), str(tmp_path / "mine.yaml"), "../presets/tiny", ""):
        with pytest.raises(InvalidInput):
            load_preset(name)


def test_recipe_file_with_all_fields(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(load_recipe("tiny").model_dump() | {"steps": 7, "captions_per_shard": 5}))
    preset = load(str(path))
    assert preset.recipe == load_recipe("tiny", {"steps": "7"})
    assert preset.captions_per_shard == 5


def test_recipe_file_on_top_of_a_preset(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text("preset: tiny\nguidance_scale: 8\n")
    assert load_recipe(str(path), {"steps": "3"}) == load_recipe(
        "tiny", {"guidance_scale": "8", "steps": "3"}
    )
    assert load(str(path)).captions_per_shard == 32


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("steps: 3\n", "model"),
        ("preset: tiny\nstep: 3\n", "step"),
        ("preset: tiny\ncaptions_per_shard: 0\n", "captions_per_shard"),
        ("preset: tiny\nimages_per_shard: 0\n", "images_per_shard"),
        ("preset: tiny\nimages_per_shard: many\n", "images_per_shard"),
        ("preset: nothing\n", "preset"),
        ("just words", "preset"),
        ("a: [", "preset"),
    ],
)
def test_a_bad_recipe_file_names_what_is_wrong(tmp_path, text, field):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        load_recipe(str(path))
    assert caught.value.field == field


def test_missing_recipe_file_says_so(tmp_path):
    with pytest.raises(InvalidInput, match=r"absent\.yaml"):
        load_recipe(str(tmp_path / "absent.yaml"))


def test_recipe_is_frozen():
    with pytest.raises(ValidationError):
        load_recipe("tiny").steps = 3
