"""Every command of docs/training.md runs as it stands, in its order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.paths import ROOT

PAGE = ROOT / "docs/training.md"


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.strip().splitlines()]


def write_photographs(folder: Path) -> None:
    """Three classes of 24 photographs, of several sizes."""
    random = np.random.default_rng(0)
    for label, name in enumerate(("ankle_boot", "bag", "hat")):
        (folder / name).mkdir(parents=True)
        for number in range(24):
            height, width = random.integers(40, 90, 2)
            stripes = (np.arange(width) // (3 + 4 * label) % 2) * 90
            pixels = random.normal(90 + stripes[None, :, None], 20, (height, width, 3)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.jpg")


def test_the_commands_run(tmp_path):
    write_photographs(tmp_path / "photographs")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    printed = {}
    assert len(commands()) > 10
    for command in commands():
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        printed[command] = done.stdout
    first, *_ = commands()
    compared = next(command for command in commands() if command.startswith("stablerep compare"))
    assert "72 images in 9 groups of 3 captions; 0 skipped" in printed[first]
    assert "--set views_per_batch=36" in printed[first], "the advice fits nine groups"
    assert "192" in printed[commands()[4]]
    assert {line.split()[0] for line in printed[compared].splitlines()[1:]} == {
        "work/runs/first",
        "work/runs/first@40",
        "pixels",
    }


def test_the_commands_name_files_that_the_page_speaks_of():
    text = PAGE.read_text(encoding="utf-8")
    assert all(command.startswith(("stablerep ", "python ")) for command in commands())
    for link in re.findall(r"\]\(([\w.]+)#?[\w-]*\)", text):
        assert (PAGE.parent / link).is_file(), link
