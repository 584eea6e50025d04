"""Long-lived loops: whatever is raised is logged and counted, and the next round comes."""

import asyncio
import logging
import re

import prometheus_client
import pytest

from services.process.loops import forever, surviving
from stablerep.errors import Unavailable


def counted(loop: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value("stablerep_loop_errors_total", {"loop": loop}) or 0.0


def test_a_loop_goes_on_after_whatever_its_rounds_raise(caplog: pytest.LogCaptureFixture) -> None:
    rounds: list[int] = []

    async def round() -> None:
        rounds.append(1)
        if len(rounds) == 1:
            raise ValueError("Invalid header value b'key\\n'")
        if len(rounds) == 2:
            raise Unavailable("the store is down")

    async def run() -> None:
        task = asyncio.create_task(forever("test", round, 0.001))
        while len(rounds) < 4:
            await asyncio.sleep(0.001)
        assert not task.done()
        task.cancel()

    before = counted("test")
    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert counted("test") - before == 1, "what is expected is a warning, and counts as none"
    first, second = caplog.records
    assert re.search(r"number [0-9a-f]{12}", first.getMessage())
    assert first.exc_info
    assert second.levelname == "WARNING"


def test_a_stop_is_no_error() -> None:
    with pytest.raises(KeyboardInterrupt), surviving("test"):
        raise KeyboardInterrupt
