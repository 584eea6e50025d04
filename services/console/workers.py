"""Workers as the console calls them: which one makes a preview, and calls that do not hold the event loop."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.console.context import Console
from services.console.visitors import Visitor
from stablerep.client import GeneratorClient
from stablerep.client.environment import tls_from_environment
from stablerep.errors import Unavailable


@dataclass(frozen=True)
class Made:
    """JPEG files of one group, and the seconds that they took."""

    images: list[bytes]
    seconds: float
    worker: str


async def make_group(
    console: Console,
    visitor: Visitor,
    caption: str,
    *,
    preset: str = "",
    recipe: Mapping[str, Any],
    seed: int = 0,
    caption_id: int = 0,
) -> Made:
    """One group by a worker, now. Raises what the worker does, and Unavailable where there is none."""
    address = await _address(console, visitor)

    def make() -> list[bytes]:
        with GeneratorClient(address, visitor.token or None, **tls_from_environment()) as client:
            return client.preview(caption, preset=preset, recipe=recipe, seed=seed, caption_id=caption_id)

    began = time.monotonic()
    images = await asyncio.to_thread(make)
    return Made(images, time.monotonic() - began, address)


async def _address(console: Console, visitor: Visitor) -> str:
    if console.settings.console.worker:
        return console.settings.console.worker
    workers = [one for one in await visitor.client.list_workers() if one.state != "DRAINING"]
    if not workers:
        raise Unavailable("no worker has reported within two minutes, so nothing can make images now")
    idle_first = sorted(workers, key=lambda one: (one.state != "IDLE", one.name))
    return idle_first[0].address
