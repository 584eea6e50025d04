"""How many cores this process may use: a container's share of its machine, where it has one."""

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cores(cgroup: Path = _CGROUP) -> int:
    """At least 1: those that the process may run on, at most what the container's limit comes to, rounded up.

    Kubernetes and container engines leave a container with a limit of 4 all 64 cores to see; with 64 threads
    it would stand still for most of each tenth of a second.
    """
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _limit(cgroup)
    return own if limit is None else max(1, min(own, math.ceil(limit)))


def _limit(cgroup: Path) -> float | None:
    """Cores' time a second, by cgroup v2 or v1; None without a limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii")
        except OSError:
            return None
    try:
        limit = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return limit if limit > 0 else None
