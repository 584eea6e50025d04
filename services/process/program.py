"""A process that serves until SIGTERM or Ctrl-C: its settings, given by `--set` too, and its exit status."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

from services.process.logs import set_up_logs
from stablerep.config.settings import Settings, load_settings
from stablerep.errors import InvalidInput, StableRepError

Serve = Callable[[Settings, asyncio.Event], Awaitable[None]]
"""Serves until the event is set."""


def run_program(name: str, about: str | None, serve: Serve) -> int:
    """Runs `python -m services.NAME`; status 0 after a clean stop, 2 for wrong settings, 1 for the rest."""
    parser = argparse.ArgumentParser(prog=f"python -m services.{name}", description=about)
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="one setting")
    try:
        settings = load_settings(parser.parse_args().set)
        set_up_logs(settings)
        asyncio.run(_until_stopped(serve, settings))
    except InvalidInput as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except StableRepError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0


async def _until_stopped(serve: Serve, settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(settings, stop)
