"""The services of one machine: embedded queue server, gateway, workers and trainer as real processes."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from stablerep.local.children import Restarts
from stablerep.local.processes import Processes
from stablerep.local.queue_server import EmbeddedServer
from stablerep.progress import console

CONSOLE_PORT = 8080


@dataclass
class LocalServices:
    """The running services: the gateway's address, the store's URL and the processes."""

    address: str
    store_url: str
    server: EmbeddedServer
    processes: Processes
    console: str = ""
    """host:port of the console; empty without one."""
    _restarts: Restarts = field(default_factory=lambda: Restarts(healthy_before=True))

    def revive(self) -> None:
        """Restarts what has died, each after its pause. Raises ChildDied for what cannot be restarted."""
        if self.server.running:
            pass
        elif self._restarts.due is None:
            pause = self._restarts.died(worked=False)
            console.print(f"the queue server has ended; restarting it in {pause:g} s")
        elif time.monotonic() >= self._restarts.due:
            self.server.start()
            self._restarts.started()
        self.processes.revive()


@contextmanager
def local_services(
    data: Path,
    *,
    workers: int,
    address: str = "127.0.0.1:0",
    threads: int = 1,
    trainers: int = 0,
    console: str = "",
) -> Iterator[LocalServices]:
    """Starts the services over the folder `data` and stops them at the end, workers first.

    Args:
        data: holds the store (`store/`), the queue server's files (`redis/`) and logs (`logs/`).
        workers: generator processes, `threads` compute threads each.
        address: host:port on which the gateway listens; port 0 takes a free one.
        trainers: trainer services, each carrying out one run at a time.
        console: host:port of the console; empty: none.
    Raises: ChildDied when the gateway does not start.
    """
    url = (data / "store").resolve().as_uri()
    with EmbeddedServer(data / "redis") as server, Processes(data / "logs") as processes:
        environment = {"STABLEREP_STORE_URL": url, "STABLEREP_REDIS_URL": server.url}
        gateway = processes.start(
            "gateway",
            ["-m", "services.gateway"],
            {**environment, "STABLEREP_GATEWAY__ADDRESS": address},
            announces="STABLEREP_GATEWAY__ANNOUNCE",
        )
        for number in range(workers):
            processes.start(
                f"generator-{number}",
                ["-m", "services.generator"],
                {
                    **environment,
                    "STABLEREP_GENERATOR__ADDRESS": "127.0.0.1:0",
                    "STABLEREP_GENERATOR__THREADS": str(threads),
                },
                announces="STABLEREP_GENERATOR__ANNOUNCE",
                threads=threads,
            )
        for number in range(trainers):
            processes.start(
                f"trainer-{number}",
                ["-m", "services.trainer.take_runs"],
                environment,
                announces="STABLEREP_TRAINER__ANNOUNCE",
                threads=threads,
                stop_seconds=150.0,
            )
        gateway_address = processes.wait_announced(gateway)
        # A restarted gateway must serve at the address that its clients know.
        gateway.environment["STABLEREP_GATEWAY__ADDRESS"] = gateway_address
        pages = _start_console(processes, environment, gateway_address, console) if console else ""
        yield LocalServices(gateway_address, url, server, processes, pages)


def console_at(address: str) -> str:
    """Where the console is to listen: `auto` is port 8080 of loopback, or a free one where that is taken."""
    if address != "auto":
        return address
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", CONSOLE_PORT))
        except OSError:
            return "127.0.0.1:0"
    return f"127.0.0.1:{CONSOLE_PORT}"


def has_console() -> bool:
    """Whether the packages of the console are installed."""
    return all(find_spec(module) is not None for module in ("uvicorn", "starlette", "jinja2", "cryptography"))


def _start_console(
    processes: Processes, environment: Mapping[str, str], gateway_address: str, address: str
) -> str:
    child = processes.start(
        "console",
        ["-m", "services.console"],
        {
            **environment,
            "STABLEREP_CONSOLE__GATEWAY": gateway_address,
            "STABLEREP_CONSOLE__ADDRESS": address,
        },
        announces="STABLEREP_CONSOLE__ANNOUNCE",
    )
    served = processes.wait_announced(child)
    child.environment["STABLEREP_CONSOLE__ADDRESS"] = served
    return served
