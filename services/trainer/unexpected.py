"""Errors that nobody raised on purpose, for a user at a terminal: one line, and the traceback in a file."""

import os
import sys
import tempfile
import traceback
from types import TracebackType

from stablerep.local.children import COMMAND_VARIABLE

_LONGEST = 300


def keep_tracebacks() -> None:
    """From now on such an error is one line, if a user's command started this process; logs keep all else."""
    if COMMAND_VARIABLE in os.environ:
        sys.excepthook = _explain


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", prefix="stablerep-", suffix=".txt", delete=False
    ) as file:
        traceback.print_exception(kind, error, trace, file=file)
    cause = " ".join(str(error).split())[:_LONGEST]
    print(f"error: {kind.__name__}: {cause}\nthe traceback is in {file.name}", file=sys.stderr, flush=True)
