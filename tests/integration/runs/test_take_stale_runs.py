"""A trainer service reads its runs once and may carry out the first for hours; others change meanwhile."""

import threading

from services.trainer import take_runs as service
from stablerep.config.settings import load_settings
from stablerep.queue.client import Queue
from stablerep.runs import control
from stablerep.runs.records import active_runs, end_run
from stablerep.runs.spec import RunSpec
from stablerep.storage import open_store
from tests.unit.runs.test_spec import PROBE


def test_runs_deleted_or_created_anew_while_another_is_carried_out(queue: Queue, tmp_path, monkeypatch):
    store, stop, carried_out = open_store(tmp_path), threading.Event(), []
    for run in ("first", "gone", "anew"):
        control.create(store, RunSpec(run=run, probe=PROBE))

    class Process:
        """In place of a training: what a user does while it goes on."""

        def __init__(self, store, spec, settings) -> None:
            self.spec = spec

        def run_to_end(self, _) -> None:
            carried_out.append((self.spec.run, self.spec.request_id))
            if self.spec.run == "first":
                control.delete(store, "gone", force=True)
                control.delete(store, "anew", force=True)
                control.create(store, RunSpec(run="anew", probe=PROBE, request_id="second"))
            end_run(store, self.spec.run, "SUCCEEDED")
            if self.spec.run != "first":
                stop.set()

    monkeypatch.setattr(service, "RunProcess", Process)
    service.take_runs(store, queue, load_settings(), stop)
    assert carried_out == [("first", ""), ("anew", "second")]
    assert active_runs(store) == []
    assert list(store.list("runs/gone/")) == []
