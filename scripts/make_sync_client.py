"""Makes the blocking clients from the asyncio ones: `python scripts/make_sync_client.py`."""

import subprocess
import sys
import tempfile
from pathlib import Path

from unasync import Rule, unasync_files  # type: ignore[import-untyped]

CLIENT = Path(__file__).resolve().parent.parent / "stablerep" / "client"
REPLACEMENTS = {
    "AsyncClient": "Client",
    "AsyncRuns": "Runs",
    "aio": "sync",
    "runs_aio": "runs_sync",
    "aio_channel": "channel",
}
MADE = {"aio.py": "sync.py", "runs_aio.py": "runs_sync.py"}
"""From the asyncio module to the one that is made from it."""


def make_sync_client(source: str) -> str:
    """The text of the module that is made from `source`."""
    with tempfile.TemporaryDirectory() as folder:
        unasync_files([str(CLIENT / source)], [Rule(f"{CLIENT}/", f"{folder}/", REPLACEMENTS)])
        made = Path(folder) / source
        ruff = [sys.executable, "-m", "ruff"]
        config = ["--config", str(CLIENT.parents[1] / "pyproject.toml")]
        subprocess.run([*ruff, "check", "--select", "I", "--fix", "--quiet", *config, made], check=True)
        subprocess.run([*ruff, "format", "--quiet", *config, made], check=True)
        docstring, rest = made.read_text(encoding="utf-8").split("\n", 1)
    note = f"# Made from {source} by scripts/make_sync_client.py: change that and run it again."
    return f"{docstring}\n{note}\n{rest}"


if __name__ == "__main__":
    for source, made in MADE.items():
        (CLIENT / made).write_text(make_sync_client(source), encoding="utf-8")
