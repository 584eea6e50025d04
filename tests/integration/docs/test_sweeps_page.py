"""docs/sweeps.md: its commands run, its example is a sweep, and it names the presets that there are."""

import os
import re
import subprocess
import sys
from pathlib import Path

from stablerep.sweeps.plan import make_plan
from stablerep.sweeps.spec import load_sweep, sweep_presets
from tests.paths import ROOT

PAGE = (ROOT / "docs/sweeps.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def test_the_commands_run(tmp_path):
    for command in "".join(blocks("sh")).strip().splitlines():
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert "36 runs of 2,211,840 views together, each probed" in done.stdout


def test_the_example_is_a_sweep(tmp_path):
    (example,) = blocks("yaml")
    (tmp_path / "own.yaml").write_text(example, encoding="utf-8")
    plan = make_plan(*load_sweep(str(tmp_path / "own.yaml")), "file:///data/store")
    assert len(plan.datasets) == 4
    assert len(plan.trainings) == 18


def test_the_presets_are_named():
    assert set(re.findall(r"^\| `([\w-]+)`", PAGE, re.MULTILINE)) == set(sweep_presets())
