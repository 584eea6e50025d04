"""`python -m services.console [--set key=value ...]`: serves the console until SIGTERM or Ctrl-C.

Settings: STABLEREP_STORE_URL, STABLEREP_CONSOLE__ADDRESS, STABLEREP_CONSOLE__GATEWAY, ... (docs/console.md).
"""

import sys

from services.console.server import serve
from services.process.program import run_program

if __name__ == "__main__":
    sys.exit(run_program("console", __doc__, serve))
