"""SIGTERM and SIGINT of a training process: a checkpoint first, else the end at once."""

import os
import signal
import threading
import time
from types import FrameType

from services.trainer.exits import STOPPED

AGENT_VARIABLE = "STABLEREP_AGENT_PID"
"""The process that started this one, where services/trainer/launch.py is torchrun's agent."""
PATIENCE_SECONDS = 110.0
"""For the step, the agreement of all ranks and the checkpoint; then a rank that waits for a dead one ends."""


class Stopping:
    """`asked` is set by the first signal.

    Python runs a signal's handler only once the main thread is back from C++, which may wait half an hour for
    another rank. So a thread of its own hears of signals, by a file descriptor that the C handler writes to.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._training = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _nothing)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()

    def training_begins(self) -> None:
        """From now on there is something to save."""
        self._training = True

    def _listen(self) -> None:
        while os.read(self._read, 1)[0] not in (signal.SIGTERM, signal.SIGINT):
            pass
        self.asked.set()
        if self._training:
            time.sleep(PATIENCE_SECONDS)
        os._exit(STOPPED)


def _nothing(number: int, frame: FrameType | None) -> None:
    """The thread does all there is to do."""
