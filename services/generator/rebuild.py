"""A queue that has lost its data is rebuilt from the store, by whichever process notices first."""

import importlib
import importlib.util
import logging

from stablerep.jobs.queue import Queue
from stablerep.storage import Store

logger = logging.getLogger("stablerep.generator")


def rebuild_if_lost(store: Store, queue: Queue) -> None:
    """Cheap while the queue has its epoch. Raises Unavailable, and what reading the store's jobs raises."""
    if queue.epoch() is None:
        logger.warning("the queue has no epoch: its jobs are restored from the store")
        if importlib.util.find_spec("stablerep.jobs.reconcile"):
            importlib.import_module("stablerep.jobs.reconcile").ensure_queue(store, queue)
