"""The supervisor of several workers on one machine, with small Python programs in the workers' place."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.generator import supervisor
from services.generator.supervisor import plan_workers
from stablerep.config.settings import GeneratorSettings
from stablerep.errors import InvalidInput
from stablerep.local.children import MAX_RESTARTS

SUPERVISE = """
import json, sys
from services.generator.supervisor import FINAL, Supervisor
from stablerep.local.children import Child, Restarts
programs, pause = json.loads(sys.argv[1])
children = [
    Child(str(n), [sys.executable, "-c", text], {"NUMBER": str(n)}, final=FINAL, restarts=Restarts(pause))
    for n, text in enumerate(programs)
]
sys.exit(Supervisor(children).run())
"""
LIVES = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(os.environ.get("LAST", "0"))))
pathlib.Path({folder!r}, os.environ["NUMBER"] + "." + str(os.getpid())).touch()
time.sleep(60)
"""


def supervise(*programs: str, pause: float = 0.05) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", SUPERVISE, json.dumps([programs, pause])]
    return subprocess.Popen(command)


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pids(folder: Path, number: int) -> list[int]:
    return [int(path.suffix[1:]) for path in folder.glob(f"{number}.*")]


def test_a_worker_that_dies_is_started_again_and_the_order_to_stop_reaches_all(tmp_path: Path) -> None:
    program = LIVES.format(folder=str(tmp_path))
    process = supervise(program, program)
    try:
        until(lambda: pids(tmp_path, 0) and pids(tmp_path, 1))
        (first,) = pids(tmp_path, 0)
        os.kill(first, signal.SIGKILL)
        until(lambda: len(pids(tmp_path, 0)) == 2)
        assert len(pids(tmp_path, 1)) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    for pid in [*pids(tmp_path, 0), *pids(tmp_path, 1)]:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_end_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    process = supervise(LIVES.format(folder=str(tmp_path)))
    until(lambda: pids(tmp_path, 0))
    process.kill()
    process.wait()
    (pid,) = pids(tmp_path, 0)
    until(lambda: not Path(f"/proc/{pid}/exe").exists() or _is_zombie(pid))


def test_a_worker_that_keeps_dying_is_given_up_and_its_status_is_the_exit_status(tmp_path: Path) -> None:
    starts = f"pathlib.Path({str(tmp_path)!r}, '0.' + str(os.getpid())).touch()"
    dies = f"import pathlib, os, sys; {starts}; sys.exit(3)"
    process = supervise(dies, "", pause=0.001)
    assert process.wait(60) == 3
    assert len(pids(tmp_path, 0)) == 1 + MAX_RESTARTS


def test_wrong_settings_end_all_workers(tmp_path: Path) -> None:
    process = supervise(LIVES.format(folder=str(tmp_path)), "import sys; sys.exit(2)")
    assert process.wait(30) == 2


def test_each_worker_has_a_gpu_and_ports_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "visible_gpus", lambda: ["GPU-aa", "GPU-bb"])
    settings = GeneratorSettings(
        address="0.0.0.0:50052", metrics_address="0.0.0.0:9100", announce=Path("a.json")
    )
    first, second = plan_workers("auto", ["--set", "log_level=DEBUG"], settings, tmp_path)
    assert first.environment == {"CUDA_VISIBLE_DEVICES": "GPU-aa"}
    assert second.environment == {"CUDA_VISIBLE_DEVICES": "GPU-bb"}
    assert list(second.command[1:]) == [
        "-m",
        "services.generator",
        "--set",
        "log_level=DEBUG",
        "--set",
        "generator.address=0.0.0.0:50053",
        "--set",
        "generator.metrics_address=0.0.0.0:9101",
        "--set",
        "generator.announce=a-1.json",
    ]
    third = plan_workers("3", [], GeneratorSettings(), tmp_path)[2]
    assert third.environment == {"CUDA_VISIBLE_DEVICES": "GPU-aa"}
    assert "generator.address=127.0.0.1:0" in third.command
    assert f"generator.announce={tmp_path}/address-2.json" in third.command


def test_workers_without_gpus(tmp_path: Path) -> None:
    (only,) = plan_workers("auto", [], GeneratorSettings(device="cpu"), tmp_path)
    assert only.environment == {}
    assert len(plan_workers("3", [], GeneratorSettings(device="cpu"), tmp_path)) == 3


@pytest.mark.parametrize(
    ("field", "workers", "device"),
    [("--workers", "0", "cpu"), ("--workers", "many", "cpu"), ("generator.device", "auto", "cuda:1")],
)
def test_workers_that_cannot_be_shared_out(field: str, workers: str, device: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        plan_workers(workers, [], GeneratorSettings(device=device), tmp_path)
    assert caught.value.field == field


def _is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()
