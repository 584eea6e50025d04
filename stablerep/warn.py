"""Warnings about what is looked at again and again: each is told once."""

import logging
from functools import lru_cache


@lru_cache(maxsize=1000)
def warn_once(name: str, message: str) -> None:
    """Logs `message` as the logger of that name, unless it is among the last thousand that were."""
    logging.getLogger(name).warning("%s", message)
