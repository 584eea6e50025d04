"""What every launcher does for a run; which run is due to start or to end, the store says."""

from collections.abc import Iterator
from typing import Protocol

from stablerep.runs.records import CreateRecord


class RunLauncher(Protocol):
    """Carries out what the store says of runs. Every method may be called again, by another process too."""

    def sync(self, record: CreateRecord) -> None:
        """Starts a run that is due, ends one that is over, and writes its status and end into the store.

        Once a run is over and none of its processes is left, it is released (`release_run`).
        """

    def logs(self, run: str, node: int, lines: int, *, follow: bool) -> Iterator[str]:
        """What machine `node` printed, in whole lines: the last `lines`, then all that comes.

        Raises NotFound: nothing of it is known.
        """
