"""What a training run reports to those who watch it, such as the service's Prometheus metrics."""

from collections.abc import Mapping
from typing import Protocol


class TrainingCallback(Protocol):
    """Called by the first rank; `on_checkpoint` by the thread that writes checkpoints."""

    def on_start(self, run: str, step: int, steps: int) -> None:
        """`run` starts or resumes after `step` of its `steps` steps."""

    def on_step(self, step: int, views: int, waited: float) -> None:
        """`step` steps are done, the last on `views` views; for want of which the device idled `waited` s.

        A GPU is a step or two behind: those are then the seconds that have become known since the last call.
        """

    def on_loss(self, loss: float) -> None:
        """The loss over all ranks, as often as it is looked at."""

    def on_metrics(self, metrics: Mapping[str, float]) -> None:
        """What was logged, by name; the accuracies of a probe come by themselves."""

    def on_checkpoint(self, seconds: float) -> None:
        """A checkpoint is in the store, `seconds` after its writing began."""


class NoCallback:
    """Nobody watches."""

    def on_start(self, run: str, step: int, steps: int) -> None:
        """Nothing."""

    def on_step(self, step: int, views: int, waited: float) -> None:
        """Nothing."""

    def on_loss(self, loss: float) -> None:
        """Nothing."""

    def on_metrics(self, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def on_checkpoint(self, seconds: float) -> None:
        """Nothing."""
