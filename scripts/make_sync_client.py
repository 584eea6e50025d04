"""Makes the blocking client from the asyncio one: `python scripts/make_sync_client.py`."""

import subprocess
import sys
import tempfile
from pathlib import Path

from unasync import Rule, unasync_files  # type: ignore[import-untyped]

CLIENT = Path(__file__).resolve().parent.parent / "stablerep" / "client"
REPLACEMENTS = {"AsyncClient": "Client", "aio": "sync", "aio_channel": "channel"}


def make_sync_client() -> str:
    """The text of sync.py."""
    with tempfile.TemporaryDirectory() as folder:
        unasync_files([str(CLIENT / "aio.py")], [Rule(f"{CLIENT}/", f"{folder}/", REPLACEMENTS)])
        made = Path(folder) / "aio.py"
        ruff = [sys.executable, "-m", "ruff"]
        config = ["--config", str(CLIENT.parents[1] / "pyproject.toml")]
        subprocess.run([*ruff, "check", "--select", "I", "--fix", "--quiet", *config, made], check=True)
        subprocess.run([*ruff, "format", "--quiet", *config, made], check=True)
        docstring, rest = made.read_text(encoding="utf-8").split("\n", 1)
    note = "# Made from aio.py by scripts/make_sync_client.py: change that and run it again."
    return f"{docstring}\n{note}\n{rest}"


if __name__ == "__main__":
    (CLIENT / "sync.py").write_text(make_sync_client(), encoding="utf-8")
