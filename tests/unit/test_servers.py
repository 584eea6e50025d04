"""The tests' own servers: real, empty, keeping data through a crash, and gone when a run was stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import redis
from minio import Minio

from stablerep.testing.servers import MinioServer, RedisServer, exchange
from tests.paths import ROOT


@pytest.mark.parametrize("redis_kind", ["valkey", "redis"])
def test_what_was_acknowledged_survives_a_kill(redis_server: RedisServer) -> None:
    client = redis.Redis.from_url(redis_server.url)
    assert client.dbsize() == 0
    client.set("a", "1")
    redis_server.kill()
    with pytest.raises(redis.ConnectionError):
        client.get("a")
    redis_server.restart()
    assert client.get("a") == b"1"
    client.close()


def test_each_test_gets_an_empty_queue(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        assert "valkey_version" in client.info("server")


def test_minio_creates_an_object_only_once(minio_server: MinioServer) -> None:
    address = minio_server.endpoint.removeprefix("http://")
    client = Minio(
        address, access_key=minio_server.access_key, secret_key=minio_server.secret_key, secure=False
    )
    client.make_bucket("once")
    put = f"PUT {client.presigned_put_object('once', 'a').removeprefix(minio_server.endpoint)} HTTP/1.0\r\n"
    request = f"{put}Host: {address}\r\nIf-None-Match: *\r\nContent-Length: 1\r\n\r\nx".encode()
    port = int(address.split(":")[1])
    assert b" 200 " in exchange(port, request)[:15]
    assert b" 412 " in exchange(port, request)[:15]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_no_server(number: signal.Signals, tmp_path: Path) -> None:
    """Runs pytest on a test that waits, stops it, and looks for the servers it had started."""
    started = tmp_path / "pids"
    (tmp_path / "test_wait.py").write_text(
        "import os, time, pathlib\n"
        "def test_wait(redis_server):\n"
        f"    pathlib.Path({str(started)!r}).write_text(str(redis_server.pid))\n"
        "    time.sleep(600)\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        str(tmp_path),
    ]
    log = tmp_path / "log"
    with log.open("wb") as output:
        run = subprocess.Popen(
            [*command, "--rootdir", str(tmp_path)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=output,
        )
    deadline = time.monotonic() + 120
    while not (started.exists() and started.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    server = int(started.read_text())
    os.kill(server, 0)
    run.send_signal(number)
    try:
        assert run.wait(120) != 0
    except subprocess.TimeoutExpired:
        pytest.fail(f"it did not end:\n{psutil.Process(run.pid).children()}\n{log.read_text()}")
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
