"""Exit statuses of a training process, which its launcher tells apart."""

from stablerep.errors import AlreadyExists, Diverged, InvalidInput, NotFound, StableRepError
from stablerep.local.children import WRONG_SETTINGS

FINISHED = 0
FAILED = 1
"""Something went wrong that may go right the next time: a lost peer, a store that is down."""
CANNOT = WRONG_SETTINGS
"""It can never work as configured: starting it again does not help."""
STOPPED = 75  # EX_TEMPFAIL: not finished; starting it again resumes it


def status_of(error: StableRepError) -> int:
    """CANNOT for an error that comes again however often it is tried, else FAILED."""
    return CANNOT if isinstance(error, InvalidInput | NotFound | AlreadyExists | Diverged) else FAILED
