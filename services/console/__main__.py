"""`python -m services.console [--set key=value ...]`: serves the console until SIGTERM or Ctrl-C.

Settings: STABLEREP_STORE_URL, STABLEREP_CONSOLE__ADDRESS, STABLEREP_CONSOLE__GATEWAY, ... (docs/console.md).
"""

import argparse
import asyncio
import signal
import sys

from services.console.server import serve
from services.process.logs import set_up_logs
from stablerep.config.settings import Settings, load_settings
from stablerep.errors import InvalidInput, StableRepError


def main() -> int:
    """Exit status: 0 after a clean stop, 2 for wrong settings, 1 for what else kept it from serving."""
    parser = argparse.ArgumentParser(prog="python -m services.console", description=__doc__)
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="one setting")
    try:
        settings = load_settings(parser.parse_args().set)
        set_up_logs(settings)
        asyncio.run(_run(settings))
    except InvalidInput as error:
        print(f"console: {error}", file=sys.stderr)
        return 2
    except StableRepError as error:
        print(f"console: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(settings, stop)


if __name__ == "__main__":
    sys.exit(main())
