"""What a sweep file says: grids, overrides, presets, and what is wrong with it."""

import math

import pytest
import yaml

from stablerep.errors import InvalidInput
from stablerep.sweeps.plan import make_plan
from stablerep.sweeps.results import summarise, table
from stablerep.sweeps.spec import FIGURES, SweepSpec, cells, load_sweep, sweep_presets

STORE = "file:///data/store"
SWEEP = {
    "title": "Guidance",
    "data": {"synthetic": {"captions": "builtin:fashion", "limit": 64, "recipe": {"steps": 4}}},
    "use": ["synthetic"],
    "train": {"preset": "demo", "steps": 10, "encoder.kwargs.stem_width": 8},
    "seeds": 2,
    "axes": {
        "guidance": {"key": "data.synthetic.recipe.guidance_scale", "values": [1, 2.5]},
        "method": {
            "values": {"StableRep": {"train.method.temperature": 0.2}, "SimCLR": {"train.method": "simclr"}}
        },
    },
    "x": "guidance",
    "lines": "method",
}


def written(tmp_path, **changes):
    file = tmp_path / "My_sweep.yaml"
    file.write_text(yaml.safe_dump(SWEEP | changes, sort_keys=False), encoding="utf-8")
    return str(file)


def test_every_combination_is_a_cell_seed_by_seed(tmp_path):
    name, spec = load_sweep(written(tmp_path))
    assert name == "my-sweep"
    found = [(cell.seed, *cell.labels.values()) for cell in cells(spec)]
    assert found == [(s, g, m) for s in (0, 1) for g in ("1", "2.5") for m in ("StableRep", "SimCLR")]
    guidance = [cell.sources["synthetic"].recipe["guidance_scale"] for cell in cells(spec)]
    assert guidance[:4] == [1, 1, 2.5, 2.5]
    assert spec.axes["guidance"].numbers == [1.0, 2.5]
    assert spec.axes["guidance"].title == "guidance scale"
    assert spec.axes["method"].numbers is None


def test_a_plan_names_by_content_so_that_sweeps_share_what_they_have_in_common(tmp_path):
    name, spec = load_sweep(written(tmp_path))
    plan = make_plan(name, spec, STORE)
    assert len(plan.datasets) == 2
    assert len(plan.trainings) == len(plan.points) == 8
    configs = [one.config for one in plan.trainings.values()]
    assert {config.encoder.kwargs["stem_width"] for config in configs} == {8}
    assert {config.method.name for config in configs} == {"stablerep", "simclr"}
    assert {config.seed for config in configs} == {0, 1}
    assert all(config.datasets[0].startswith(f"{STORE}/datasets/synthetic-") for config in configs)

    longer = make_plan(*load_sweep(name_of_longer(tmp_path)), STORE)
    assert plan.datasets.keys() < longer.datasets.keys()
    assert plan.trainings.keys() < longer.trainings.keys()
    elsewhere = make_plan(name, spec, "s3://bucket")
    assert elsewhere.trainings.keys() == plan.trainings.keys()
    changed = make_plan(*load_sweep(written(tmp_path), {"train.steps": 11}), STORE)
    assert changed.datasets.keys() == plan.datasets.keys()
    assert not changed.trainings.keys() & plan.trainings.keys()


def name_of_longer(tmp_path):
    axes = {**SWEEP["axes"], "guidance": {**SWEEP["axes"]["guidance"], "values": [1, 2.5, 8]}}
    return written(tmp_path, axes=axes)


def test_threads_and_the_like_are_not_in_a_name(tmp_path):
    plain = make_plan(*load_sweep(written(tmp_path)), STORE)
    with_threads = make_plan(*load_sweep(written(tmp_path), {"train.threads": 4}), STORE)
    assert plain.trainings.keys() == with_threads.trainings.keys()


def test_mixtures_have_weights_and_pools_have_none(tmp_path):
    data = {**SWEEP["data"], "real": {"images": "builtin:fashion"}}
    axes = {
        "images": {
            "values": {"pool": {"use": ["real", "synthetic"]}, "mix": {"use": {"real": 1, "synthetic": 3}}}
        }
    }
    plan = make_plan(
        *load_sweep(written(tmp_path, data=data, axes=axes, x="images", lines="", seeds=1)), STORE
    )
    weights = {
        point.labels["images"]: plan.trainings[point.run].config.dataset_weights for point in plan.points
    }
    assert weights == {"pool": (), "mix": (1.0, 3.0)}


def test_an_encoder_given_whole_takes_nothing_of_the_sweeps_own(tmp_path):
    vit = {"name": "vit_tiny_patch16_224", "image_size": 28, "kwargs": {"patch_size": 7}}
    axes = {"encoder": {"values": {"ViT": {"train.encoder": vit}}}}
    plan = make_plan(*load_sweep(written(tmp_path, axes=axes, x="encoder", lines="")), STORE)
    assert {str(one.config.encoder.kwargs) for one in plan.trainings.values()} == {"{'patch_size': 7}"}


def test_seeds_may_be_named(tmp_path):
    all_three, two = (make_plan(*load_sweep(written(tmp_path, seeds=seeds)), STORE) for seeds in (3, [2, 1]))
    assert [point.seed for point in two.points] == sorted((p.seed for p in two.points), reverse=True)
    assert {point.run for point in two.points} == {p.run for p in all_three.points if p.seed > 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": "nothing"}, "no axis 'nothing'"),
        ({"lines": ""}, "method is neither x nor lines"),
        ({"use": ["other"]}, "no dataset 'other'"),
        ({"data": {"synthetic": {}}}, "want one of captions, images and url, not none"),
        ({"data": {"synthetic": {"captions": "a.txt", "url": "x"}}}, "not captions and url"),
        (
            {"data": {"synthetic": {"captions": "builtin:shoes"}}},
            "no builtin:shoes; there are builtin:fashion",
        ),
        ({"train": {"stepz": 3}}, "stepz"),
        ({"seeds": 0}, "seeds: want a number from 1 to 100"),
        ({"seeds": 10**10}, "seeds: want a number from 1 to 100"),
        ({"seeds": [2, 2]}, "or a list of different seeds"),
        ({"seeds": [-1]}, "or a list of different seeds"),
        ({"axes": {"guidance": {"key": "guidance", "values": [1]}}, "lines": ""}, "an axis sets train"),
        ({"title": None}, "title"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, message):
    with pytest.raises(InvalidInput) as error:
        make_plan(*load_sweep(written(tmp_path, **changes)), STORE)
    assert message in str(error.value)


def test_an_unknown_sweep_names_those_there_are():
    with pytest.raises(InvalidInput, match="neither a file nor one of captions, data, guidance"):
        load_sweep("fig-2")


@pytest.mark.parametrize("preset", sweep_presets())
def test_presets_can_be_planned(preset):
    plan = make_plan(*load_sweep(preset), STORE)
    assert plan.spec.seeds == 3
    assert len(plan.points) >= 9


def test_the_papers_figures_are_presets():
    assert {load_sweep(number)[0] for number in FIGURES} == {"guidance", "data", "captions"}


def test_the_summary_is_over_seeds_and_names_what_failed(tmp_path):
    plan = make_plan(*load_sweep(written(tmp_path)), STORE)
    by_run = {point.run: 0.5 + 0.1 * point.seed for point in plan.points}
    lost = plan.points[0].run
    by_run.pop(lost)

    def scores(run):
        return {"few": by_run[run], "knn": 0.25} if run in by_run else None

    summaries = summarise(plan, scores, {lost: "out of memory"})
    assert summaries[0].scores["few"] == [0.6]
    assert summaries[0].failed == [f"{lost}: out of memory"]
    assert summaries[1].scores["few"] == [0.5, 0.6]
    rows = table(plan, summaries)
    assert rows[0][:2] == ["guidance scale", "method"]
    assert rows[2][2] == f"55.0 ± {math.sqrt(0.005) * 100:.1f}"
    assert rows[1][2] == "60.0"
    assert rows[1][4] == ""


def test_a_specification_says_itself_again(tmp_path):
    _, spec = load_sweep(written(tmp_path))
    assert SweepSpec.model_validate(spec.model_dump(mode="json")) == spec
