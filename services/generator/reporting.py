"""What a worker says of itself to whoever lists the workers: every few seconds, into the queue server."""

import ipaddress
import logging
import platform
import socket
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime

import torch

import stablerep
from services.generator.worker import Worker
from stablerep.errors import Unavailable
from stablerep.queue.client import Queue
from stablerep.queue.workers import WorkerReport, report_worker

logger = logging.getLogger("stablerep.generator")

REPORT_SECONDS = 5.0
_PACE_SECONDS = 60.0


class Reporter:
    """Reports one worker, which serves at `address`; the queue server may be away."""

    def __init__(self, worker: Worker, queue: Queue, address: str, device: str) -> None:
        self._worker, self._queue = worker, queue
        self._address, self._card = reachable(address), card_name(device)
        self._seen: deque[tuple[float, int]] = deque()
        self._due = 0.0

    def report(self) -> None:
        """Writes a report where one is due."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + REPORT_SECONDS
        status = self._worker.status
        report = WorkerReport(
            name=self._worker.name,
            state="DRAINING" if self._worker.drain.ordered else status.state,
            shard=status.shard,
            shards_done=status.shards_done,
            images_done=status.images_done,
            images_per_second=self._pace(now, status.images_done),
            card=self._card,
            model=status.model,
            address=self._address,
            version=stablerep.__version__,
            time=datetime.now(UTC),
        )
        try:
            report_worker(self._queue, report)
        except Unavailable as error:
            logger.debug("not reported: %s", error)  # what needs the queue says so louder

    def _pace(self, now: float, images: int) -> float:
        self._seen.append((now, images))
        while len(self._seen) > 2 and now - self._seen[1][0] >= _PACE_SECONDS:
            self._seen.popleft()
        first_time, first_images = self._seen[0]
        return round((images - first_images) / (now - first_time), 3) if now > first_time else 0.0


def reachable(address: str) -> str:
    """HOST:PORT as others may call it: of an address on all interfaces, this machine's by its name."""
    host, _, port = address.rpartition(":")
    try:
        everywhere = ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        everywhere = False
    if not everywhere:
        return address
    try:
        return f"{socket.gethostbyname(socket.gethostname())}:{port}"
    except OSError:
        return f"{socket.gethostname()}:{port}"


def card_name(device: str) -> str:
    """The GPU's name, or the processor's."""
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind.startswith("cuda") and torch.cuda.is_available():
        with suppress(RuntimeError, AssertionError):  # one that is not there: the worker says so, and ends
            return str(torch.cuda.get_device_name(torch.device(kind)))
    return f"{kind}, {platform.processor() or platform.machine()}"
