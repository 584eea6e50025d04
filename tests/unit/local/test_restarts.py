"""The restart policy and the way children are started, with small Python programs as children."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stablerep.local import children
from stablerep.local.children import Child, Restarts, how_it_ended
from stablerep.local.processes import ChildDied, Processes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(children, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def deaths(restarts: Restarts, clock: Any, *lives: tuple[float, bool]) -> list[float | None]:
    """The pause after each life, given as its seconds and whether work was done in it."""
    pauses = []
    for seconds, worked in lives:
        restarts.started()
        clock.now += seconds
        pauses.append(restarts.died(worked=worked))
    return pauses


def test_a_child_that_never_worked_is_given_up_after_five_restarts(clock: Any) -> None:
    assert deaths(Restarts(), clock, *[(3.0, False)] * 6) == [1, 2, 4, 8, 16, None]


def test_a_child_that_works_is_restarted_after_a_second_each_time(clock: Any) -> None:
    assert deaths(Restarts(), clock, *[(3.0, True)] * 20) == [1] * 20


def test_two_minutes_of_life_are_as_good_as_work(clock: Any) -> None:
    assert deaths(Restarts(), clock, *[(3.0, False)] * 5, (121.0, False), (3.0, False)) == [
        *(1, 2, 4, 8, 16),
        *(1, 2),
    ]


def test_a_child_that_worked_before_is_never_given_up_and_pauses_a_minute_at_most(clock: Any) -> None:
    pauses = deaths(Restarts(), clock, (3.0, True), *[(0.1, False)] * 9)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


@pytest.mark.parametrize(
    ("written", "status"),
    [
        ("", 3),  # it never served: given up
        ('{"address": "a:1", "worked": false}', 3),  # served, and finished nothing
        ('{"address": "a:1", "worked": true}', None),
        ('{"address": "a:1"}', None),  # a gateway: serving is its work
    ],
)
def test_work_is_read_from_the_address_file(tmp_path: Path, written: str, status: int | None) -> None:
    file = tmp_path / "address.json"
    writes = f"open({str(file)!r}, 'w').write({written!r}); " if written else ""
    program = f"import sys; {writes}sys.exit(3)"
    child = Child("it", [sys.executable, "-c", program], {}, address_file=file, restarts=Restarts(0.001))
    child.restarts._in_a_row = children.MAX_RESTARTS
    child.start()
    child.process.wait()
    child.keep_running(print)
    assert child.status == status


def test_progress_counts_as_work(tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    steps.write_text("")
    program = f"import os; open({str(steps)!r}, 'a').write('x'); os.kill(os.getpid(), 9)"
    lines: list[str] = []
    with Processes(tmp_path / "logs") as processes:
        child = processes.start("it", ["-c", program], {}, progress=steps.read_text, final=range(256))
        child.restarts.first_pause = 0.001
        while len(steps.read_text()) < 8:
            child.keep_running(lines.append)
            time.sleep(0.005)
    assert child.status is None
    assert "it was ended by signal 9 (Killed); restarting it in 0.001 s (log: " in lines[6]


@pytest.mark.parametrize("code", [2, -9])
def test_an_end_for_good_is_raised_with_its_cause(tmp_path: Path, code: int) -> None:
    ends = f"sys.exit({code})" if code > 0 else "os.kill(os.getpid(), 9)"
    program = f"import os, sys; print('the cause', flush=True); {ends}"
    with Processes(tmp_path) as processes:
        child = processes.start("it", ["-c", program], {})
        child.restarts.first_pause = 0.0
        with pytest.raises(ChildDied, match=re.escape(f"it {how_it_ended(code)}:\nthe cause")):
            revive_for_ever(processes)
        assert child.log_tail().count("the cause") == (1 if code == 2 else 1 + children.MAX_RESTARTS)


def revive_for_ever(processes: Processes) -> None:
    while True:
        processes.revive()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends children with their parent")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_with_its_parent_not_with_the_thread_that_started_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    program = (
        "import sys, threading, time; from stablerep.local.children import start_process\n"
        "def start(): print(start_process(['/bin/sleep', '60']).pid, flush=True)\n"
        "thread = threading.Thread(target=start); thread.start(); thread.join(); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    time.sleep(0.2)
    assert is_alive(pid)
    parent.send_signal(number)
    parent.wait()
    deadline = time.monotonic() + 30
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
