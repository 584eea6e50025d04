"""What the threads of a worker share."""

import os
import secrets
import socket
from dataclasses import dataclass, field

from services.generator.drain import Drain
from services.generator.leased_shards import LeasedShards
from services.generator.previews import Previews
from services.generator.readiness import Readiness
from services.health.heartbeat import Heartbeat
from stablerep.config.settings import GeneratorSettings
from stablerep.queue.client import Queue
from stablerep.storage import Store

STUCK_SECONDS = 600.0
"""A worker that neither makes a step nor asks for work for this long is stuck."""


def _worker_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


@dataclass
class WorkerContext:
    store: Store
    queue: Queue
    settings: GeneratorSettings
    name: str = field(default_factory=_worker_name)
    drain: Drain = field(default_factory=Drain)
    readiness: Readiness = field(default_factory=Readiness)
    heartbeat: Heartbeat = field(default_factory=lambda: Heartbeat(STUCK_SECONDS))
    previews: Previews = field(default_factory=Previews)
    shards: LeasedShards = field(init=False)

    def __post_init__(self) -> None:
        self.shards = LeasedShards(self.store, self.queue, self.readiness, self.settings.lease_seconds)
