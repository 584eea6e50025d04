"""What one demo does: its size, its learners, and how it notices that it is asked to do something else."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from stablerep.config.recipe import load_preset
from stablerep.errors import InvalidInput

DEMO_BYTES = 300 * 2**20
"""What a demo may write, the study of three seeds included."""

Images = Literal["noun", "no_noun"]
Size = Literal["tiny", "demo", "study"]


@dataclass(frozen=True)
class Method:
    """One row of the table that is trained: a method on one set of images."""

    name: str
    title: str
    method: Literal["stablerep", "simclr"]
    images: Images = "noun"
    drop_nouns: bool = False


MAIN_LEARNERS = (
    Method("stablerep", "StableRep on synthetic images", "stablerep"),
    Method("simclr", "SimCLR on synthetic images", "simclr"),
)
CONTROLS = (
    Method(
        "stablerep_regrouped", "StableRep, same images grouped without the noun", "stablerep", drop_nouns=True
    ),
    Method(
        "stablerep_no_noun", "StableRep, images from captions without the noun", "stablerep", images="no_noun"
    ),
    Method("simclr_no_noun", "SimCLR, images from captions without the noun", "simclr", images="no_noun"),
)


@dataclass(frozen=True)
class DemoSettings:
    """All that decides a demo's numbers; kept in `demo.json`, so that a second start names what differs."""

    size: Size
    seeds: int
    captions: int
    images_per_caption: int
    denoising_steps: int
    batch_images: int
    training_steps: int
    views_per_step: int
    few_shot_draws: int
    probe_train: int
    probe_test: int
    controls: bool
    pipeline: str = ""

    @property
    def images(self) -> int:
        """Images generated in all."""
        return self.captions * self.images_per_caption * len({method.images for method in self.methods})

    @property
    def methods(self) -> tuple[Method, ...]:
        return MAIN_LEARNERS + CONTROLS if self.controls else MAIN_LEARNERS


_SIZES = {
    "tiny": DemoSettings(
        size="tiny",
        seeds=1,
        captions=48,
        images_per_caption=4,
        denoising_steps=6,
        batch_images=32,
        training_steps=20,
        views_per_step=128,
        few_shot_draws=5,
        probe_train=1000,
        probe_test=2000,
        controls=False,
    ),
    "demo": DemoSettings(
        size="demo",
        seeds=1,
        captions=1000,
        images_per_caption=4,
        denoising_steps=12,
        batch_images=64,
        training_steps=600,
        views_per_step=256,
        few_shot_draws=20,
        probe_train=5000,
        probe_test=10000,
        controls=False,
    ),
    "study": DemoSettings(
        size="study",
        seeds=3,
        captions=2000,
        images_per_caption=4,
        denoising_steps=20,
        batch_images=64,
        training_steps=1200,
        views_per_step=256,
        few_shot_draws=20,
        probe_train=5000,
        probe_test=10000,
        controls=True,
    ),
}


def demo_settings(size: str | None, seeds: int | None) -> DemoSettings:
    """Settings of a size; several seeds without a size mean the study. Raises InvalidInput."""
    chosen = size or ("study" if (seeds or 1) > 1 else "demo")
    if chosen not in _SIZES:
        raise InvalidInput(f"unknown size {chosen!r}; there are {', '.join(_SIZES)}", field="size")
    settings = _SIZES[chosen]
    count = settings.seeds if seeds is None else seeds
    if not 1 <= count <= 20:
        raise InvalidInput(f"{count} is not between 1 and 20", field="seeds")
    return replace(settings, seeds=count, pipeline=load_preset("tiny").recipe.revision)


def claim_folder(out: Path, settings: DemoSettings) -> bool:
    """Ties a folder to these settings. True when an earlier run with the same settings is there.

    Raises InvalidInput naming what differs when the folder holds a demo with other settings.
    """
    record = out / "demo.json"
    wanted = asdict(settings)
    if record.exists():
        found = json.loads(record.read_text(encoding="utf-8"))
        different = [f"{k}: {found.get(k)} there, {v} now" for k, v in wanted.items() if found.get(k) != v]
        if different:
            raise InvalidInput(
                f"{out} holds a demo with other settings ({'; '.join(different)}). "
                f"Name another folder with --out, or start over with --fresh.",
                field="out",
            )
        return True
    out.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    return False
