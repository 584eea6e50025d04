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
    """Runs `python -m services.NAME`; its exit status is that of `exit_status`."""
    arguments = program_parser(name, about).parse_args()

    def work() -> None:
        settings = load_settings(arguments.set)
        set_up_logs(settings)
        asyncio.run(_until_stopped(serve, settings))

    return exit_status(name, work)


def program_parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """The options that all programs have."""
    parser = argparse.ArgumentParser(prog=f"python -m services.{name}", description=about)
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="one setting")
    return parser


def exit_status(name: str, work: Callable[[], int | None]) -> int:
    """What `work` returns, 0 for nothing; 2 for wrong settings, 1 for the rest, both told."""
    try:
        return work() or 0
    except InvalidInput as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except StableRepError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1


async def _until_stopped(serve: Serve, settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(settings, stop)
