"""Reconciliation: the queue compared with the store."""

from stablerep.jobs.rebuild import ensure_queue

__all__ = ["ensure_queue"]
