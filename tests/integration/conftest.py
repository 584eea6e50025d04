"""Fixtures of the integration tests: a gateway process of the test's own and a client of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stablerep.client import Client
from tests.gateways import GatewayProcess


@pytest.fixture
def gateway(tmp_path: Path, store_url: str, redis_url: str) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path / "gateway", store_url, redis_url) as process:
        yield process


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[Client]:
    with Client(gateway.address) as client:
        yield client
