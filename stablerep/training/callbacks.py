"""What a training run tells whoever watches it; the service makes Prometheus' metrics of it."""

from typing import Protocol


class Watch(Protocol):
    """Called by the first rank; `written` by the thread that writes checkpoints."""

    def begins(self, run: str, step: int, steps: int) -> None:
        """`run` goes on after `step` of its `steps` steps."""

    def stepped(self, step: int, views: int, waited: float) -> None:
        """`step` steps are done, the last on `views` views for which it had to wait `waited` seconds."""

    def lost(self, loss: float) -> None:
        """The loss over all ranks, as often as it is looked at."""

    def written(self, seconds: float) -> None:
        """A checkpoint is in the store, `seconds` after its writing began."""


class Unwatched:
    """Nobody watches."""

    def begins(self, run: str, step: int, steps: int) -> None:
        """Nothing."""

    def stepped(self, step: int, views: int, waited: float) -> None:
        """Nothing."""

    def lost(self, loss: float) -> None:
        """Nothing."""

    def written(self, seconds: float) -> None:
        """Nothing."""
