"""The services of one machine: embedded queue server, gateway and generator workers as real processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stablerep.local.processes import Processes
from stablerep.local.queue_server import EmbeddedServer


@dataclass(frozen=True)
class LocalServices:
    """What runs: the gateway's address, the store's URL, and the processes to look after."""

    address: str
    store_url: str
    server: EmbeddedServer
    processes: Processes

    def revive(self) -> None:
        """Starts whatever has died again, the queue server first. Raises ChildDied if it keeps dying."""
        self.server.start()
        self.processes.revive()


@contextmanager
def local_services(
    data: Path, *, workers: int, address: str = "127.0.0.1:0", threads: int = 1
) -> Iterator[LocalServices]:
    """Starts the services over the folder `data` and stops them at the end, workers first.

    Args:
        data: holds the store (`store/`), the queue server's files (`redis/`) and logs (`logs/`).
        workers: generator processes, `threads` compute threads each.
        address: where the gateway listens; port 0 takes a free one.
    Raises: ChildDied when a service does not come up.
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
        gateway_address = processes.wait_announced(gateway)
        # A gateway that is started again must come back where its clients look for it.
        gateway.environment["STABLEREP_GATEWAY__ADDRESS"] = gateway_address
        yield LocalServices(gateway_address, url, server, processes)
