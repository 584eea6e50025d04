"""A demo folder belongs to one set of settings: a second start resumes it or says what differs."""

from pathlib import Path

import pytest

from stablerep.config.recipe import load_preset
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


def test_more_work_is_announced_as_longer() -> None:
    tiny, demo, study = (demo_settings(size, None).minutes for size in ("tiny", "demo", "study"))
    assert tiny < 3 < demo <= 8.5 < study
    assert demo_settings("demo", 3).minutes > demo


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
