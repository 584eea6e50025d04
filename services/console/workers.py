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

MAX_TRIED = 5
"""Workers that are asked for one group: one that was killed is listed for two minutes."""


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
    """One group by a worker, now: by the next one where one does not answer.

    Raises what the worker does, and Unavailable where there is none.
    """

    def make(address: str) -> list[bytes]:
        with GeneratorClient(address, visitor.token or None, **tls_from_environment()) as client:
            return client.preview(caption, preset=preset, recipe=recipe, seed=seed, caption_id=caption_id)

    problem = "no worker has reported within two minutes, so nothing can make images now"
    for address in await _addresses(console, visitor):
        began = time.monotonic()
        try:
            images = await asyncio.to_thread(make, address)
        except Unavailable as error:
            problem = str(error)
            continue
        return Made(images, time.monotonic() - began, address)
    raise Unavailable(problem)


async def _addresses(console: Console, visitor: Visitor) -> list[str]:
    """The one that the settings name; else of the workers that reported, those that are idle first."""
    if console.settings.console.worker:
        return [console.settings.console.worker]
    workers = [one for one in await visitor.client.list_workers() if one.state != "DRAINING"]
    latest = sorted(workers, key=lambda one: one.report_time, reverse=True)
    return [one.address for one in sorted(latest, key=lambda one: one.state != "IDLE")][:MAX_TRIED]
