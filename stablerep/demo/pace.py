"""How long a demo takes on this machine: a few steps of each stage are timed, then the whole is followed.

`python -m stablerep.demo.pace` prints the seconds of each part as JSON. The demo runs two of these processes
side by side, as its stages do, so that what two processes cost each other is in the figures.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from stablerep.demo.settings import DemoSettings
from stablerep.errors import StableRepError

STAGES = ("generate", "train", "probe", "report")
_PROCESSES = 2
_ROW_REGRESSIONS = 36.0
"""The probes of one row on 5,000 and 10,000 photographs, in regressions as `measure` times one (measured)."""
_REPORT_REGRESSIONS = 20.0
_SERVICES_SECONDS = 3.0


@dataclass(frozen=True)
class Pace:
    """Seconds of one process of two.

    Attributes:
        start: to import what a stage needs and to load the pipeline.
        image_step: one denoising step of an image; `image`: its decoding and JPEG file.
        view: one training step of one view, augmentation included.
        regression: one linear probe of 192 dimensions on 1,000 examples.
    """

    start: float
    image_step: float
    image: float
    view: float
    regression: float


def measure() -> Pace:
    """Times a few steps of each stage in this process, on one thread."""
    began = time.perf_counter()
    import numpy as np
    import torch

    from stablerep.config.recipe import load_recipe
    from stablerep.data.augment.apply import augment
    from stablerep.data.augment.parameters import UNIFORMS_PER_VIEW, draw_parameters
    from stablerep.devices import choose_device, to_device
    from stablerep.evaluation.probes.linear import linear_probe
    from stablerep.generation import Generator
    from stablerep.methods.interface import Batch
    from stablerep.runs.config import load_train_config
    from stablerep.training.learner import build_learner

    torch.set_num_threads(1)
    generator = Generator(load_recipe("tiny", {"steps": "1"}))
    start = time.perf_counter() - began

    def timed(step: Callable[[], object], times: int) -> float:
        step()  # the first one of a process is slower
        began = time.perf_counter()
        for _ in range(times):
            step()
        return (time.perf_counter() - began) / times

    captions = [f"black plain boot number {number}" for number in range(16)]
    images = len(captions) * generator.recipe.images_per_caption
    longer = Generator(load_recipe("tiny", {"steps": "3"}), pipeline=generator.pipeline)
    one = timed(lambda: list(generator.generate(captions)), 1) / images
    three = timed(lambda: list(longer.generate(captions)), 1) / images
    image_step = max(0.0, three - one) / 2
    config = load_train_config("demo", {"run": "file:///x/runs/x", "datasets": ["file:///x/datasets/x"]})
    device = choose_device()
    learner = build_learner(config, device, 1)
    optimizer = torch.optim.AdamW(learner.parameters(), fused=True)
    pixels = torch.randint(0, 255, (256, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(64, device=device)

    def train() -> None:
        sizes = np.array([32, 32])
        drawn = draw_parameters(config.augment, np.random.rand(256, UNIFORMS_PER_VIEW), sizes)
        views = augment(to_device(pixels, device), drawn, config.augment, config.encoder.image_size)
        views = views.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        losses, _ = learner(Batch(number=4, views=views, labels=labels))
        losses["contrastive"].backward()
        optimizer.step()
        losses["contrastive"].item()  # a GPU is waited for

    view = timed(train, 3) / 256
    features, classes = torch.randn(1000, 192), torch.arange(1000) % 10
    train_set, validation = (features[:800], classes[:800]), (features[800:], classes[800:])
    regression = timed(lambda: linear_probe(*train_set, *validation, features, classes), 1)
    return Pace(start, image_step, max(0.0, one - image_step), view, regression)


def measure_side_by_side(record: Path) -> Pace:
    """The mean of two processes that measure at once; kept in `record`, where a later start finds it.

    Raises StableRepError if one fails.
    """
    if not record.exists():
        command = [sys.executable, "-m", "stablerep.demo.pace"]
        processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(_PROCESSES)
        ]
        found = []
        for process in processes:
            printed, errors = process.communicate()
            if process.returncode:
                raise StableRepError(f"the demo cannot time its stages: {_last_error(errors)}")
            found.append(json.loads(printed.splitlines()[-1]))
        means = {key: sum(each[key] for each in found) / len(found) for key in found[0]}
        record.write_text(json.dumps(means, indent=1) + "\n", encoding="utf-8")
    return Pace(**json.loads(record.read_text(encoding="utf-8")))


def _last_error(errors: str) -> str:
    """The first line of the last error in what Python printed; CUDA's are followed by lines of advice."""
    lines = errors.strip().splitlines() or ["no output"]
    return next((line for line in reversed(lines) if re.match(r"[\w.]+: ", line)), lines[-1])


def estimate(settings: DemoSettings, pace: Pace) -> dict[str, float]:
    """Seconds of each stage of a demo at this pace."""
    of_image = settings.denoising_steps * pace.image_step + pace.image
    runs = settings.seeds * len(settings.methods)
    rows = settings.seeds * (len(settings.methods) + 1) + 1
    part = (settings.probe_train + settings.probe_test) / 15_000
    step = settings.views_per_step * pace.view
    return {
        "generate": _SERVICES_SECONDS + pace.start + settings.images * of_image / _PROCESSES,
        "train": -(-runs // _PROCESSES) * (pace.start + settings.training_steps * step),
        "probe": pace.start + -(-rows // _PROCESSES) * _ROW_REGRESSIONS * part * pace.regression,
        "report": pace.start + _REPORT_REGRESSIONS * pace.regression,
    }


class Overall:
    """Follows a demo against its estimate, which it corrects by what the stages so far really took."""

    def __init__(self, estimates: Mapping[str, float], spent: Mapping[str, float]) -> None:
        self._estimates = dict(estimates)
        self._spent = dict(spent)
        self._stage = STAGES[0]
        self._began = time.monotonic()
        self._start_fraction: float | None = None

    def begin(self, stage: str) -> None:
        """From now on, progress is that of this stage."""
        self._stage, self._began, self._start_fraction = stage, time.monotonic(), None

    def seconds(self, fraction: float) -> tuple[float, float]:
        """Seconds spent and seconds in all, when `fraction` of the current stage is done."""
        now = time.monotonic() - self._began
        if self._start_fraction is None:
            self._start_fraction = fraction  # done by an earlier start
        done = fraction - self._start_fraction
        estimated = self._estimates[self._stage] * (1 - self._start_fraction)
        # The estimate counts less the more of the stage is seen.
        seen = now / done * (1 - self._start_fraction) if done > 0.02 else estimated
        stage = max(now, fraction * seen + (1 - fraction) * max(estimated, now))
        factor = stage / estimated if estimated > 0 else 1.0
        later = STAGES[STAGES.index(self._stage) + 1 :]
        left = stage - now + sum(self._estimates[name] for name in later) * (0.5 + 0.5 * factor)
        spent = sum(self._spent.values()) + now
        return spent, spent + left

    def end(self, seconds: float) -> None:
        """Records how long the current stage took."""
        self._spent[self._stage] = self._spent.get(self._stage, 0.0) + seconds


if __name__ == "__main__":
    print(json.dumps(asdict(measure())))
