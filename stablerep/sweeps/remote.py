"""Carries sweeps out through a gateway: jobs, runs and probes of its own, as many at a time as asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from stablerep.client import Client, Run
from stablerep.errors import InvalidInput, StableRepError
from stablerep.local.patience import patiently
from stablerep.progress import Bars
from stablerep.shards.layout import SWEEPS
from stablerep.storage import Store, open_store
from stablerep.sweeps.draw import draw
from stablerep.sweeps.execute import create_job
from stablerep.sweeps.plan import Plan, Training
from stablerep.sweeps.results import Scores
from stablerep.sweeps.spec import ProbeSpec

_POLL_SECONDS = 2.0
_PHOTOGRAPHS = ("fashion", "fashion-full", "digits")


@dataclass
class RemoteExecution:
    """Sweeps of one gateway; this process only asks and draws, and may be stopped and started again.

    Attributes:
        at_once: runs and probes that are created and not over; the gateway's launcher may queue them.
        gpus: of each machine of a run.
        given: what was measured elsewhere, see `read_measured`; such runs are not created.
    """

    plans: Sequence[Plan]
    out: Path
    client: Client
    launcher: str
    gpus: int
    at_once: int
    command: str
    given: Mapping[tuple[str, str], Scores] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    _scores: dict[tuple[str, str], Scores] = field(default_factory=dict)
    _store: Store | None = None

    def run(self) -> None:
        """Raises InvalidInput for what only this machine has: images to import, photographs in folders."""
        began = time.monotonic()
        self._check()
        trainings = self._not_given()
        needed = {name for one in trainings.values() for name in one.datasets}
        datasets = {
            name: made for plan in self.plans for name, made in plan.datasets.items() if made.name in needed
        }
        jobs = {
            name: patiently(partial(create_job, self.client, made))
            for name, made in datasets.items()
            if made.source.captions
        }
        with Bars() as bars:
            shards = bars.add("shards", max(1, len(jobs)))
            bar = bars.add("runs", len(trainings))
            waiting, active = dict(trainings), dict[str, Iterator[None]]()
            while waiting or active:
                for name in jobs:
                    if not jobs[name].done:
                        jobs[name] = patiently(partial(self.client.get_job, jobs[name].name))
                done = sum(job.counts.done for job in jobs.values())
                total = sum(job.counts.shards for job in jobs.values())
                bars.update(shards, done, total=max(1, total))
                for name in list(waiting):
                    if len(active) < self.at_once and self._is_ready(waiting[name], jobs):
                        active[name] = self._steps(waiting.pop(name))
                    elif name in self.failures:
                        del waiting[name]
                over = [name for name, steps in active.items() if next(steps, _OVER) is _OVER]
                for name in over:
                    del active[name]
                if over:
                    self._draw({})
                bars.update(bar, len(trainings) - len(waiting) - len(active))
                time.sleep(_POLL_SECONDS)
        self._draw({"seconds": round(time.monotonic() - began)})

    def scores(self, probe: ProbeSpec) -> Any:
        """What a run measured up to by this probe, by its name; None for none."""
        return lambda run: self._scores.get((run, probe.data))

    def _not_given(self) -> dict[str, Training]:
        """The trainings by name, but for those that were measured elsewhere."""
        wanted: dict[str, Training] = {}
        for plan in self.plans:
            probe = plan.spec.probe
            for name, training in plan.trainings.items():
                scores = self.given.get((name, probe.model_dump_json()))
                if scores is None:
                    wanted[name] = training
                else:
                    self._scores[name, probe.data] = scores
        return wanted

    def _check(self) -> None:
        for plan in self.plans:
            probe = plan.spec.probe
            if probe.protocol != "frozen" or probe.data not in _PHOTOGRAPHS:
                raise InvalidInput(
                    f"a gateway probes by the protocol frozen on {', '.join(_PHOTOGRAPHS)}", field="probe"
                )
            for name, made in plan.datasets.items():
                if made.source.images:
                    raise InvalidInput(
                        f"{made.source.images} is on this machine: import it into the gateway's store "
                        f"(stablerep import), and give its name as url in place of images",
                        field=f"data.{name}",
                    )

    def _is_ready(self, training: Training, jobs: dict[str, Any]) -> bool:
        """Whether all of its datasets are there; a job that has failed is a failure of the run."""
        for name in training.datasets:
            job = jobs.get(name)
            if job is None or job.state.value == "SUCCEEDED":
                continue
            if job.done:
                self.failures[training.name] = f"dataset {name}: {job.state.value} {job.error}".strip()
            return False
        return True

    def _steps(self, training: Training) -> Iterator[None]:
        """Trains and probes one, a step whenever it is asked; creating a run again gives the same run."""
        settings = dict(training.settings)
        if training.weights:
            settings["dataset_weights"] = list(training.weights)
        datasets = [name.rpartition("/datasets/")[2] for name in training.datasets]
        run = patiently(
            partial(
                self.client.runs.train,
                training.name,
                datasets,
                preset=training.preset,
                config=settings,
                gpus_per_node=self.gpus,
                launcher=self.launcher,
            )
        )
        yield from self._until_over(run)
        for data in {plan.spec.probe.data for plan in self.plans if training.name in plan.trainings}:
            if training.name in self.failures:
                return
            probe = patiently(
                partial(
                    self.client.runs.probe,
                    f"probe-{data}-{training.name}"[:63],
                    f"runs/{training.name}",
                    [data],
                    gpus_per_node=self.gpus,
                    launcher=self.launcher,
                )
            )
            yield from self._until_over(probe, training.name)
            measured = patiently(partial(self.client.runs.get, probe.name)).result.get("probes", {}).get(data)
            if measured is not None:
                self._scores[training.name, data] = {key: measured[key] for key in ("linear", "few", "knn")}

    def _until_over(self, run: Run, about: str = "") -> Iterator[None]:
        while not run.done:
            yield
            run = patiently(partial(self.client.runs.get, run.name))
        if self._store is None:
            self._store = _store_of(run)
        if run.state.value != "SUCCEEDED":
            self.failures[about or run.run] = f"{run.name} {run.state.value}: {run.error}".strip(": ")

    def _draw(self, facts: dict[str, Any]) -> None:
        for plan in self.plans:
            scores = self.scores(plan.spec.probe)
            draw(plan, scores, self.failures, self.out, self._store, self.command, facts)


def _store_of(run: Run) -> Store | None:
    """The gateway's store, for the figure; None where this machine may not reach it."""
    try:
        store = open_store(run.run_url.rpartition("/runs/")[0])
        store.exists(SWEEPS)
        return store
    except (StableRepError, OSError):
        return None


_OVER = object()
