"""Other places for a run's metrics, beside the store: anything with the three methods of `Tracker`."""

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from stablerep.errors import InvalidInput
from stablerep.runs.config import TrainConfig

PROJECT = "stablerep"


class Tracker(Protocol):
    """Where metrics go as they are logged; called by the first rank alone."""

    def start(self, run: str, config: Mapping[str, Any]) -> None:
        """The run begins, or goes on after an interruption."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics after `step` steps; a resumed run may log a step again."""

    def finish(self) -> None:
        """The process leaves the run, at its end or before."""


class NoTracker:
    """The store's own files alone."""

    def start(self, run: str, config: Mapping[str, Any]) -> None:
        """Nothing."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


class ModuleTracker:
    """trackio or wandb, which have the same functions; where they write to is theirs to configure."""

    def __init__(self, name: str) -> None:
        try:
            self._module = importlib.import_module(name)
        except ModuleNotFoundError:
            raise InvalidInput(f"{name} is not installed: pip install {name}", field="tracker") from None
        self._name = name

    def start(self, run: str, config: Mapping[str, Any]) -> None:
        known = {"id": run} if self._name == "wandb" else {}  # by which a resumed run is the same one there
        self._module.init(project=PROJECT, name=run, config=dict(config), resume="allow", **known)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._module.log(dict(metrics), step=step)

    def finish(self) -> None:
        self._module.finish()


def make_tracker(config: TrainConfig) -> Tracker:
    """The tracker that the configuration names. Raises InvalidInput where it is not installed."""
    return NoTracker() if config.tracker == "none" else ModuleTracker(config.tracker)
