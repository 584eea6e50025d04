"""Carries sweeps out on this machine: generates and imports, trains, probes, draws after every probe."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from stablerep.client import Client
from stablerep.client.environment import client_from_environment
from stablerep.client.progress import show_job
from stablerep.data.corpus.growing import is_whole
from stablerep.importing.sources import find_images
from stablerep.importing.write import import_images
from stablerep.local.patience import patiently
from stablerep.local.services import LocalServices, local_services
from stablerep.local.tasks import Task, run_tasks
from stablerep.progress import Bars, console
from stablerep.shards.layout import run_key
from stablerep.storage import open_store
from stablerep.sweeps.draw import draw
from stablerep.sweeps.plan import Made, Plan, Training
from stablerep.sweeps.results import Scores, read_scores
from stablerep.sweeps.spec import ProbeSpec

_POLL_SECONDS = 0.5
_PROBED_TOGETHER = 4
_SHARDS = 8
"""A small dataset is cut into as many shards or more, so that every worker has some."""


@dataclass
class Execution:
    """Sweeps that are carried out in one folder, `out`: its store, the figures beside it.

    Attributes:
        at_once: processes that generate, train or probe at a time, with `threads` compute threads each.
        given: what was measured elsewhere, see `read_measured`; such runs are not trained here.
        failures: why a run has no scores, by its name.
    """

    plans: Sequence[Plan]
    out: Path
    at_once: int
    threads: int
    command: str
    given: Mapping[tuple[str, str], Scores] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    _found: dict[tuple[str, str], Scores] = field(default_factory=dict)
    _to_train: set[str] = field(default_factory=set)
    _to_probe: list[Training] = field(default_factory=list)

    def run(self) -> None:
        """Makes what is missing; a second call goes on where the first was stopped."""
        began = time.monotonic()
        self._store = open_store(self.out / "store")
        self._found.update(self.given)
        self._import()
        self._generate()
        usable = [one for one in self._trainings() if not self._lost(one)]
        count = len(usable)

        def overall() -> tuple[int, int, str]:
            done = sum(self._measured(one) or one.name in self.failures for one in usable)
            return done, count, "runs trained and probed"

        run_tasks(
            self._tasks(usable),
            self.out / "logs",
            at_once=self.at_once,
            overall=overall,
            failed=self._note_failure,
        )
        self._draw({"seconds": round(time.monotonic() - began)})

    def _import(self) -> None:
        for made in self._made("images"):
            with Bars() as bars:
                images = find_images([made.source.images])
                bar = bars.add(f"import {made.name}", len(images))
                import_images(self._store, made.name, images, progress=partial(bars.update, bar))

    def _generate(self) -> None:
        wanted = [made for made in self._made("captions") if not is_whole(self._store, made.name)]
        if not wanted:
            return
        with (
            Bars() as bars,
            local_services(self.out, workers=self.at_once, threads=self.threads) as services,
            client_from_environment(services.address) as client,
        ):
            for made in wanted:
                job = patiently(partial(create_job, client, made), meanwhile=services.revive)
                bar = bars.add(f"generate {made.name}", max(1, job.counts.shards), job.counts.done)
                job = self._wait(services, client, job.name, partial(show_job, bars, bar))
                if job.state.value != "SUCCEEDED":
                    problem = f"dataset {made.name}: {job.state.value} {job.error}".strip()
                    self.failures.update(dict.fromkeys(self._runs_on(made), problem))

    def _wait(self, services: LocalServices, client: Client, name: str, show: Any) -> Any:
        while True:
            job = patiently(partial(client.get_job, name), meanwhile=services.revive)
            show(job)
            if job.done:
                return job
            services.revive()
            time.sleep(_POLL_SECONDS)

    def _tasks(self, trainings: Sequence[Training]) -> Iterable[Task]:
        """The trainings that are not done, in order, each followed by probes when enough wait for one."""
        self._to_train = {one.name for one in trainings if not self._trained(one) and not self._measured(one)}
        self._to_probe = [one for one in trainings if self._trained(one) and not self._measured(one)]
        yield from self._probe_tasks(at_least=1)
        for training in trainings:
            if training.name in self._to_train:
                arguments = ["-m", "services.trainer", "--config-json", self._configuration(training)]
                yield Task(
                    name=f"trainer-{training.name}",
                    title=f"train {training.name}",
                    arguments=arguments,
                    about=(training.name,),
                    total=training.config.steps,
                    progress=partial(self._steps, training),
                    threads=self.threads,
                    then=partial(self._after_training, training),
                )

    def _after_training(self, training: Training) -> Iterable[Task]:
        self._to_train.discard(training.name)
        self._to_probe.append(training)
        return self._due_probes()

    def _due_probes(self) -> Iterable[Task]:
        """One process probes several runs: most of the time of one would go into its start."""
        return self._probe_tasks(at_least=_PROBED_TOGETHER if self._to_train else 1)

    def _probe_tasks(self, *, at_least: int) -> Iterable[Task]:
        if len(self._to_probe) < max(1, at_least):
            return
        chosen, self._to_probe = self._to_probe, []
        by_probe: dict[str, tuple[ProbeSpec, list[Training]]] = {}
        for training in chosen:
            for probe in self._probes(training):
                if self._scores_of(training.name, probe) is None:
                    key = probe.model_dump_json(include={"data", "protocol", "seed"})
                    of_probe = by_probe.setdefault(key, (probe, []))[1]
                    if training not in of_probe:
                        of_probe.append(training)
        for probe, trainings in by_probe.values():
            yield self._probe_task(probe, trainings)

    def _probe_task(self, probe: ProbeSpec, trainings: list[Training]) -> Task:
        arguments = ["-m", "stablerep", "probe", *(one.config.run for one in trainings)]
        arguments += ["--data", probe.data, "--protocol", probe.protocol, "--seed", str(probe.seed)]

        def progress() -> tuple[int, str]:
            done = sum(self._scores_of(one.name, probe) is not None for one in trainings)
            if done != drawn[0]:
                drawn[0] = done
                self._draw({})
            return done, ""

        drawn = [0]
        return Task(
            name=f"probe-{trainings[0].name}",
            title=f"probe {len(trainings)} runs",
            arguments=[*arguments, "--threads", str(self.threads)],
            about=tuple(one.name for one in trainings),
            total=len(trainings),
            progress=progress,
            threads=self.threads,
        )

    def _draw(self, facts: dict[str, Any]) -> None:
        for plan in self.plans:
            draw(
                plan, self.scores(plan.spec.probe), self.failures, self.out, self._store, self.command, facts
            )

    def scores(self, probe: ProbeSpec) -> Any:
        """What a run measured up to by this probe, by its name; None for none."""
        return partial(self._scores_of, probe=probe)

    def _scores_of(self, run: str, probe: ProbeSpec) -> Scores | None:
        """The scores in the store; those found once are kept, since this is asked all the time."""
        key = (run, probe.model_dump_json())
        if key not in self._found:
            found = read_scores(self._store, run, probe)
            if found is None:
                return None
            self._found[key] = found
        return self._found[key]

    def _probes(self, training: Training) -> list[ProbeSpec]:
        return [plan.spec.probe for plan in self.plans if training.name in plan.trainings]

    def _measured(self, training: Training) -> bool:
        probes = self._probes(training)
        return all(self._scores_of(training.name, probe) is not None for probe in probes)

    def _configuration(self, training: Training) -> str:
        return training.config.model_copy(update={"threads": self.threads}).model_dump_json()

    def _trained(self, training: Training) -> bool:
        return self._store.exists(run_key(training.name, "result.json"))

    def _steps(self, training: Training) -> tuple[int, str]:
        file = self.out / "store" / "runs" / training.name / "metrics.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        last = json.loads(lines[-1]) if lines else {}
        return (int(last["step"]), f"loss {last['loss']:.3f}") if last else (0, "")

    def _note_failure(self, task: Task, log_tail: str) -> Iterable[Task]:
        """The run of a task that failed; of a probe of several, those that have no scores."""
        why = log_tail or f"see {self.out / 'logs' / task.name}.log"
        for name in task.about:
            self._to_train.discard(name)
            if not self._has_scores(name):
                self.failures[name] = why
        console.print(f"{task.title} failed: {why}")
        self._draw({})
        return self._due_probes()

    def _has_scores(self, name: str) -> bool:
        training = next(plan.trainings[name] for plan in self.plans if name in plan.trainings)
        return self._measured(training)

    def _trainings(self) -> list[Training]:
        """All trainings, those of the first seed first: a figure of one seed is better than half of one."""
        seeds: dict[str, int] = {}
        for plan in self.plans:
            for point in plan.points:
                seeds.setdefault(point.run, point.seed)
        found = {name: one for plan in self.plans for name, one in plan.trainings.items()}
        return sorted(found.values(), key=lambda one: seeds[one.name])

    def _lost(self, training: Training) -> bool:
        return training.name in self.failures

    def _made(self, kind: str) -> list[Made]:
        datasets = {name: made for plan in self.plans for name, made in plan.datasets.items()}
        needed = {name for one in self._trainings() if not self._measured(one) for name in one.datasets}
        return [made for made in datasets.values() if getattr(made.source, kind) and made.name in needed]

    def _runs_on(self, made: Made) -> list[str]:
        return [
            name
            for plan in self.plans
            for name, training in plan.trainings.items()
            if made.name in training.datasets
        ]


def create_job(client: Client, made: Made) -> Any:
    """The job that makes a dataset; the same call again gives the same job. Raises InvalidInput."""
    source = made.source
    shard = source.captions_per_shard
    if not shard and source.limit:
        shard = min(32, max(1, source.limit // _SHARDS))
    return client.create_job(
        made.name,
        made.captions,
        preset=source.preset,
        recipe={key: str(value) for key, value in source.recipe.items()},
        seed=source.seed,
        limit=source.limit,
        captions_per_shard=shard,
    )
