"""A run that the gateway created, as its processes see it: what to do, and the end that they write."""

import logging
from dataclasses import dataclass

from services.trainer.exits import CANNOT, FINISHED, STOPPED
from stablerep.config.settings import Settings
from stablerep.errors import InvalidInput, StableRepError
from stablerep.runs.config import TrainConfig
from stablerep.runs.records import RunEnd, end_run, read_end, read_spec
from stablerep.runs.spec import RunSpec
from stablerep.storage.interface import Store
from stablerep.storage.open import open_store

logger = logging.getLogger("stablerep.trainer")
_STATUSES: dict[RunEnd, int] = {"SUCCEEDED": FINISHED, "FAILED": CANNOT, "CANCELLED": STOPPED}


@dataclass(frozen=True)
class CreatedRun:
    """What was asked for; `ended` is the exit status of one that is over already, else None."""

    store: Store
    spec: RunSpec
    ended: int | None

    @classmethod
    def open(cls, settings: Settings, run: str) -> "CreatedRun":
        """Reads the run from the store of the settings. Raises NotFound."""
        store = open_store(settings.store_url, s3=settings.s3)
        spec = read_spec(store, run)
        end = read_end(store, run)
        return cls(store, spec, _STATUSES[end.state] if end else None)

    def training(self) -> TrainConfig:
        """What it trains. Raises InvalidInput for a probe."""
        if self.spec.train is None:
            raise InvalidInput("is a probe; start it with python -m services.trainer.launch", field="run")
        return self.spec.train

    def succeeded(self) -> None:
        """Writes the end of a run whose result is in the store."""
        end_run(self.store, self.spec.run, "SUCCEEDED")

    def failed(self, status: int, error: StableRepError) -> None:
        """Writes the end of a run that can never work; any other failure is its launcher's to count."""
        if status != CANNOT:
            return
        try:
            end_run(self.store, self.spec.run, "FAILED", str(error))
        except StableRepError as unwritten:
            logger.warning("the end of run %s could not be written: %s", self.spec.run, unwritten)
