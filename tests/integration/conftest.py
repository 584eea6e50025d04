"""Fixtures of the integration tests: a queue on a server of the test's own, a gateway process, its client."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stablerep.client import Client
from stablerep.queue.client import Queue
from stablerep.testing.gateway import GatewayProcess


@pytest.fixture
def queue(redis_url: str) -> Iterator[Queue]:
    """In its first epoch; shards that failed are tried again at once."""
    queue = Queue(redis_url, retry_seconds=0)
    queue.begin_epoch()
    yield queue
    queue.close()


@pytest.fixture
def gateway(tmp_path: Path, store_url: str, redis_url: str) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path / "gateway", store_url, redis_url) as process:
        yield process


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[Client]:
    with Client(gateway.address) as client:
        yield client
