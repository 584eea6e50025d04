"""What the machines of a run printed, as far as the store keeps it: all that the local launcher needs."""

import time
from collections.abc import Iterator

from stablerep.errors import NotFound, TornObject
from stablerep.runs.records import CreateRecord, log_key, read_end
from stablerep.storage.interface import Store

_POLL_SECONDS = 1.0


class LocalLauncher:
    """Trainer services take runs from the store by themselves, and put their logs there."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def sync(self, record: CreateRecord) -> None:
        """Nothing: see services/trainer/take_runs.py."""

    def logs(self, run: str, node: int, lines: int, *, follow: bool) -> Iterator[str]:
        """The end of the stored log, then what is added to it. Raises NotFound."""
        return stored_log(self._store, run, node, lines, follow=follow)


def stored_log(store: Store, run: str, node: int, lines: int, *, follow: bool = False) -> Iterator[str]:
    """The last lines of a stored log; with `follow` all that is added until the run is over.

    Raises NotFound: nothing of this machine is stored, and with `follow` never was before the run's end.
    """
    while not (text := _read(store, run, node)):
        if not follow or read_end(store, run) is not None:
            raise NotFound(f"machine {node} of run {run} has printed nothing that is kept")
        time.sleep(_POLL_SECONDS)
    yield "".join(text.splitlines(keepends=True)[-lines:])
    while follow:
        over = read_end(store, run) is not None
        now = _read(store, run, node)
        if new := _added(text, now):
            yield new
        text = now or text
        if over:
            return
        time.sleep(_POLL_SECONDS)


def _read(store: Store, run: str, node: int) -> str:
    try:
        return store.get(log_key(run, node)).decode(errors="replace")
    except (NotFound, TornObject):  # the run is being deleted, or started on another machine
        return ""


def _added(before: str, after: str) -> str:
    """What was appended. The store keeps the end of a log: its beginning may be gone meanwhile."""
    head = after.partition("\n")[0][:200]
    at = before.find(head)
    while at >= 0:
        kept = before[at:]
        if after.startswith(kept):
            return after[len(kept) :]
        at = before.find(head, at + 1)
    return after
