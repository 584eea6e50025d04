"""A trainer service: takes runs one after the other and carries each out on this machine, until SIGTERM.

    python -m services.trainer.take_runs

Runs are those that a gateway with `gateway.launcher=local` created, the oldest first. Several services may
share a store: a lock in Redis keeps each run to one of them. SIGTERM lets the current run write a checkpoint;
whichever service takes it next resumes it.
"""

import argparse
import logging
import signal
import sys
import threading
from types import FrameType

from services.process.address_file import write_address_file
from services.process.logs import about, set_up_logs
from services.process.loops import surviving
from services.trainer.run_process import RunProcess
from stablerep.config.settings import Settings, load_settings
from stablerep.errors import InvalidInput
from stablerep.queue.client import Queue
from stablerep.queue.lock import Lock, hold
from stablerep.runs.records import CreateRecord, active_runs, read_create, read_end, release_run
from stablerep.storage.interface import Store
from stablerep.storage.open import open_store

logger = logging.getLogger("stablerep.trainer")
POLL_SECONDS = 2.0


def main() -> int:
    """Exit status: 0 after a clean stop, 2 for wrong settings."""
    parser = argparse.ArgumentParser(
        prog="python -m services.trainer.take_runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="one setting")
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    try:
        settings = load_settings(parser.parse_args().set)
        set_up_logs(settings)
        store = open_store(settings.store_url, s3=settings.s3)
        queue = Queue(settings.redis_url)
    except InvalidInput as error:
        print(f"trainer: {error}", file=sys.stderr)
        return 2
    write_address_file(settings.trainer.announce, "", "")
    logger.info("taking runs from %s", store.url)
    try:
        take_runs(store, queue, settings, stop)
    finally:
        queue.close()
    return 0


def take_runs(store: Store, queue: Queue, settings: Settings, stop: threading.Event) -> None:
    """Carries out runs until `stop` is set."""
    while not stop.is_set():
        with surviving("runs"):
            for record in active_runs(store):
                if record.spec.launcher == "local" and not stop.is_set():
                    _take(store, queue, record, settings, stop)
        stop.wait(POLL_SECONDS)


def _take(
    store: Store, queue: Queue, record: CreateRecord, settings: Settings, stop: threading.Event
) -> None:
    """Carries out a run that no other service has."""
    run = record.spec.run
    with hold(queue, f"sr:run:{run}") as lock, about(run=run):
        if lock is None:
            return
        end = read_end(store, run)
        if read_create(store, run) != record:  # deleted while it waited for the ones before it
            return
        if end is None:
            logger.info("run begins")
            RunProcess(store, record.spec, settings).run_to_end(_EitherStop(stop, lock))
            logger.info("run ended" if not stop.is_set() else "run stopped")
        if read_end(store, run) is not None:
            release_run(store, run)


class _EitherStop:
    """Set with that of the process, or once the run's lock was lost."""

    def __init__(self, process: threading.Event, lock: Lock) -> None:
        self._process, self._lock = process, lock

    def is_set(self) -> bool:
        return self._process.is_set() or self._lock.lost

    def wait(self, seconds: float) -> bool:
        """Waits so long, or until the process is to stop; whether it or the lock's loss says stop."""
        self._process.wait(seconds)
        return self.is_set()


if __name__ == "__main__":
    sys.exit(main())
