"""`python -m services.gateway [--set key=value ...]`: runs the gateway until SIGTERM or Ctrl-C.

Settings: STABLEREP_STORE_URL, STABLEREP_REDIS_URL, STABLEREP_GATEWAY__ADDRESS, ... (docs/operations.md).
"""

import sys

from services.gateway.server import serve
from services.process.program import run_program

if __name__ == "__main__":
    sys.exit(run_program("gateway", __doc__, serve))
