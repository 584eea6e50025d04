"""What users do to a run at any moment of a launcher's step: no job of a deleted run, one of each other.

Two gateways may look after the runs for a while, at an upgrade, say: what one of them has read may be old.
The API server is a stand-in that forgets what is deleted at once; tests/cluster has a real one.
"""

from collections.abc import Callable
from copy import deepcopy
from itertools import count
from typing import Any

import pytest

from stablerep.errors import AlreadyExists, NotFound
from stablerep.runs import control
from stablerep.runs.launchers.kubernetes.launcher import KubernetesLauncher
from stablerep.runs.records import active_runs, end_run, read_end, release_run, reopen_run
from stablerep.storage import Store, open_store
from tests.unit.runs.test_manifests import TEMPLATE, spec

NAME = "big"


class Jobs:
    """A cluster's Jobs by name."""

    def __init__(self) -> None:
        self.there: dict[str, dict[str, Any]] = {}
        self.created = 0

    def has_jobsets(self) -> bool:
        return False

    def find(self, kind: str, name: str) -> dict[str, Any] | None:
        return deepcopy(self.there.get(name)) if kind == "Job" else None

    def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        name = manifest["metadata"]["name"]
        if name in self.there:
            raise AlreadyExists(name)
        self.created += 1
        made = deepcopy(manifest)
        made["metadata"] |= {"namespace": "ml", "uid": str(self.created)}
        self.there[name] = made
        return deepcopy(made)

    def create_service(self, manifest: dict[str, Any]) -> None:
        pass

    def delete(self, found: dict[str, Any]) -> None:
        there = self.there.get(found["metadata"]["name"])
        if there and there["metadata"]["uid"] == found["metadata"]["uid"]:
            del self.there[found["metadata"]["name"]]

    def annotate(self, found: dict[str, Any], annotations: dict[str, str]) -> None:
        pass

    def pods(self, selector: str) -> list[dict[str, Any]]:
        return []

    def log(self, pod: str, *_: object, **__: object) -> bytes:
        raise NotFound(pod)


class Interrupted:
    """A store in which something happens just before the call of number `at`."""

    def __init__(self, store: Store, at: int, happen: Callable[[], None]) -> None:
        self._store, self._left, self._happen = store, at, happen

    @property
    def over(self) -> bool:
        return self._left < 0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if not callable(call):
            return call

        def counted(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == -1:
                self._happen()
            return call(*arguments, **named)

        return counted


class Case:
    """A run with its job, and what a launcher has read of it."""

    def __init__(self, folder: Any) -> None:
        self.store, self.jobs = open_store(folder), Jobs()
        control.create(self.store, spec())
        self.other = KubernetesLauncher(self.store, self.jobs, TEMPLATE)  # type: ignore[arg-type]
        self.rounds()

    def rounds(self) -> None:
        for _ in range(4):
            for record in active_runs(self.store):
                self.other.sync(record)

    def delete(self) -> None:
        if not end_run(self.store, NAME, "CANCELLED"):
            return
        self.rounds()
        control.delete(self.store, NAME)

    def resume(self) -> None:
        control.resume(self.store, NAME)


def at_every_moment(folder: Any, prepare: Callable[[Case], None], act: Callable[[Case], None]) -> list[Case]:
    """Cases in which `act` came before the first, second, ... call of a step, until a step has no more."""
    found = []
    for number in count():
        case = Case(folder / str(number))
        prepare(case)
        (record,) = active_runs(case.store)
        store = Interrupted(case.store, number, lambda case=case: act(case))
        KubernetesLauncher(store, case.jobs, TEMPLATE).sync(record)  # type: ignore[arg-type]
        found.append(case)
        if not store.over:
            return found
    raise AssertionError


def test_a_run_that_is_deleted_leaves_no_job(tmp_path):
    def without_job(case: Case) -> None:
        case.jobs.there.clear()

    for number, prepare in enumerate((lambda case: None, without_job)):
        cases = at_every_moment(tmp_path / str(number), prepare, Case.delete)
        assert len(cases) > 4
        for case in cases[:-1]:
            case.rounds()
            assert case.jobs.there == {}
            assert list(case.store.list(f"runs/{NAME}/job/create")) == []


def test_a_run_that_is_deleted_and_created_anew_keeps_its_job(tmp_path):
    def act(case: Case) -> None:
        case.delete()
        control.create(case.store, spec())
        case.rounds()
        assert case.jobs.created == 2

    for case in at_every_moment(tmp_path, lambda case: None, act)[:-1]:
        assert list(case.jobs.there) == [f"run-{NAME}"]
        assert case.jobs.created == 2, "it was not stopped and started again"


@pytest.mark.parametrize("gone", [False, True])
def test_a_run_that_is_resumed_while_it_is_released_runs(tmp_path, gone):
    def prepare(case: Case) -> None:
        control.cancel(case.store, NAME)
        if gone:
            case.jobs.there.clear()

    cases = at_every_moment(tmp_path, prepare, Case.resume)
    assert len(cases) > 2
    for case in cases[:-1]:
        case.rounds()
        assert list(case.jobs.there) == [f"run-{NAME}"]


@pytest.mark.parametrize(
    ("first", "second"), [(release_run, reopen_run), (reopen_run, release_run)], ids=["release", "reopen"]
)
def test_a_run_that_was_resumed_is_active_whenever_it_was_released(tmp_path, first, second):
    """As by a trainer service whose process has just ended."""
    for number in count():
        store = open_store(tmp_path / str(number))
        control.create(store, spec())
        end_run(store, NAME, "CANCELLED")
        between = Interrupted(store, number, lambda store=store: second(store, NAME))
        first(between, NAME)
        if not between.over:
            break
        assert [record.spec.run for record in active_runs(store)] == [NAME]
        assert read_end(store, NAME) is None
    assert number > 1
