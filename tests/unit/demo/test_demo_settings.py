"""A demo folder belongs to one set of settings: a second start resumes it or says what differs."""

from pathlib import Path

import pytest

from stablerep.config.recipe import load_preset
from stablerep.demo.pace import Overall, Pace, estimate
from stablerep.demo.settings import claim_folder, demo_settings
from stablerep.errors import InvalidInput


def test_several_seeds_mean_the_study_with_its_controls() -> None:
    settings = demo_settings(None, 3)
    assert settings.size == "study"
    assert settings.seeds == 3
    assert {"stablerep_regrouped", "stablerep_no_noun"} <= {method.name for method in settings.methods}


def test_the_plain_demo_is_one_seed_of_two_learners() -> None:
    settings = demo_settings(None, 1)
    assert (settings.size, settings.seeds, len(settings.methods)) == ("demo", 1, 2)


def test_one_seed_of_the_study_is_one_seed() -> None:
    assert demo_settings("study", 1).seeds == 1
    assert demo_settings("study", None).seeds == 3


PACE = Pace(start=10, image_step=0.005, image=0.01, view=0.001, regression=0.3)


def test_more_work_takes_longer_by_the_parts_that_there_are_more_of() -> None:
    tiny, demo, study = (estimate(demo_settings(size, None), PACE) for size in ("tiny", "demo", "study"))
    assert sum(tiny.values()) < sum(demo.values()) < sum(study.values())
    # 4,000 images of 12 steps in two processes; two runs of 600 steps of 256 views, side by side.
    assert demo["generate"] == pytest.approx(3 + 10 + 4000 * (12 * 0.005 + 0.01) / 2)
    assert demo["train"] == pytest.approx(10 + 600 * 256 * 0.001)


def test_the_whole_is_corrected_by_what_stages_really_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    overall = Overall({"generate": 100, "train": 100, "probe": 50, "report": 50}, {})
    overall.begin("generate")
    assert overall.seconds(0.0) == (0, pytest.approx(300))
    totals = []
    for fraction in (0.1, 0.5, 0.9, 1.0):  # it takes twice as long as estimated
        now = 1000 + 200 * fraction
        spent, total = overall.seconds(fraction)
        assert spent == pytest.approx(200 * fraction)
        totals.append(total)
    assert totals == sorted(totals), "an estimate that was too low only rises"
    assert totals[-1] == pytest.approx(200 + 200 * 1.5)
    overall.end(200)
    overall.begin("train")
    assert overall.seconds(0.5) == (200, pytest.approx(200 + 100 * 0.5 + 100 * 1.0, rel=0.3)), (
        "half was there"
    )


def test_the_settings_name_the_shipped_pipeline() -> None:
    assert demo_settings("tiny", 1).pipeline == load_preset("tiny").recipe.revision


def test_same_settings_resume_a_folder(tmp_path: Path) -> None:
    assert not claim_folder(tmp_path / "demo", demo_settings("tiny", 1))
    assert claim_folder(tmp_path / "demo", demo_settings("tiny", 1))


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    claim_folder(tmp_path, demo_settings("tiny", 1))
    with pytest.raises(InvalidInput, match=r"size: tiny there, demo now.*--fresh"):
        claim_folder(tmp_path, demo_settings("demo", 1))


@pytest.mark.parametrize(("size", "seeds"), [("huge", 1), ("tiny", 0), ("tiny", 21)])
def test_unknown_sizes_and_seed_counts_are_refused(size: str, seeds: int) -> None:
    with pytest.raises(InvalidInput):
        demo_settings(size, seeds)
