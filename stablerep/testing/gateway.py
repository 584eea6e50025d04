"""A real gateway process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from stablerep.errors import Unavailable
from stablerep.queue.client import Queue

START_SECONDS = 60.0
EPOCH_SECONDS = 10.0


class GatewayProcess:
    """`python -m services.gateway`; its log is `gateway.log` in `folder`. Use it in a `with` block."""

    def __init__(self, folder: Path, store_url: str, redis_url: str, **environment: str) -> None:
        self.address = "127.0.0.1:0"
        self._folder = folder
        self._environment = {
            "STABLEREP_STORE_URL": store_url,
            "STABLEREP_REDIS_URL": redis_url,
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "GatewayProcess":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(signal.SIGKILL)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return (self._folder / "gateway.log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Returns once it serves, on the address it had before, and a queue that answers has its epoch."""
        self._folder.mkdir(parents=True, exist_ok=True)
        announced = self._folder / "gateway.json"
        announced.unlink(missing_ok=True)
        environment = {
            **self._environment,
            "STABLEREP_GATEWAY__ADDRESS": self.address,
            "STABLEREP_GATEWAY__ANNOUNCE": str(announced),
        }
        with (self._folder / "gateway.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.gateway"],
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not announced.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the gateway did not come up; its log ends:\n{self.log[-3000:]}")
            time.sleep(0.02)
        self.address = json.loads(announced.read_text(encoding="utf-8"))["address"]
        self._wait_for_epoch()

    def _wait_for_epoch(self) -> None:
        """Until then steps of the queue are refused, which a caller without retries would see."""
        queue = Queue(self._environment["STABLEREP_REDIS_URL"].strip())
        deadline = time.monotonic() + EPOCH_SECONDS
        try:
            while queue.epoch() is None and time.monotonic() < deadline:
                time.sleep(0.02)
        except Unavailable:  # the test's gateway is to do without
            pass
        finally:
            queue.close()

    def end(self, number: signal.Signals) -> int:
        """Sends the signal and returns the exit status; a process that ended already is fine."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
