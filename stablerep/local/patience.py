"""Asking a service that may be away for a while: its server restarts, a gateway is replaced."""

import time
from collections.abc import Callable
from typing import TypeVar

from stablerep.errors import Unavailable
from stablerep.progress import console

_POLL_SECONDS = 0.5
Answer = TypeVar("Answer")


def patiently(
    ask: Callable[[], Answer], *, seconds: float = 600.0, meanwhile: Callable[[], None] = lambda: None
) -> Answer:
    """What `ask` gives, once it is not Unavailable; raises that if it still is after so many seconds.

    What is asked must be the same when asked again. `meanwhile` is called between the tries.
    """
    since: float | None = None
    while True:
        try:
            return ask()
        except Unavailable as error:
            now = time.monotonic()
            if since is None:
                since = now
                console.print(f"waiting for the services: {error}")
            elif now - since > seconds:
                raise
        meanwhile()
        time.sleep(_POLL_SECONDS)
