"""How many cores a process may use, by what its container's files say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stablerep.cores import cores

HERE = len(os.sched_getaffinity(0))


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, HERE),
        ({"cpu.max": "max 100000\n"}, HERE),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, HERE),
        ({"cpu.max": "110000 100000\n"}, min(HERE, 2)),
        ({"cpu.max": "nonsense"}, HERE),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, HERE),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "50000\n"}, HERE),
    ],
)
def test_a_containers_limit_counts_where_it_is_less(tmp_path, files, wanted):
    assert cores(write(tmp_path, files)) == wanted


def test_cores_that_the_process_may_not_run_on_do_not_count(tmp_path):
    only = min(os.sched_getaffinity(0))
    program = (
        f"import os, pathlib, stablerep.cores as c; os.sched_setaffinity(0, {{{only}}}); "
        f"print(c.cores(pathlib.Path({str(tmp_path)!r})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr
