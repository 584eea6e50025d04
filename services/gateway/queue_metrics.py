"""The queue for Prometheus: read from Redis when it is scraped, one cheap step, at most once a second.

Every gateway exports the same numbers, so take `max` over instances, not `sum`. While Redis does not answer,
`stablerep_queue_up` is 0 and the rest is left out: old numbers would pass for new ones.
"""

import logging
from collections.abc import Callable, Iterator

import redis
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.health.single_flight import SingleFlightCall
from stablerep.errors import StableRepError
from stablerep.queue.states import JobState
from stablerep.queue.stats import JobBacklog, QueueStats

logger = logging.getLogger("stablerep.gateway")

MAX_JOBS = 50
"""Jobs with series of their own, those with the largest backlog; the sums are over all."""
_PLACES: tuple[tuple[str, Callable[[JobBacklog], int]], ...] = (
    ("waiting", lambda job: job.waiting),
    ("leased", lambda job: job.leased),
    ("done", lambda job: job.done),
    ("dead", lambda job: job.dead),
)
_BACKLOG = _PLACES[:2]
_STORE_UP = "1 while the object store answers this gateway."
_EMPTY = QueueStats(
    jobs=(),
    job_states=dict.fromkeys(JobState, 0),
    dead_shards=0,
    oldest_lease_seconds=0.0,
    busy_workers=0,
    idle_workers=0,
    errors=0,
    leases_lost=0,
    dead_lettered=0,
    planned=0,
)


class QueueCollector(Collector):
    """Register it once in a process.

    Args:
        stats: `Queue.stats`.
        store_answers: what raises unless the store answers.
    """

    def __init__(self, stats: Callable[[], QueueStats], store_answers: SingleFlightCall[object]) -> None:
        self._stats = SingleFlightCall("the queue server", stats)
        self._store_answers = store_answers
        self._up = True

    def collect(self) -> Iterator[Metric]:
        """The queue at this moment, or that it does not answer; whether the store does."""
        yield _store_up(self._store_answers)
        try:
            stats = self._stats.get()
        except (StableRepError, redis.RedisError) as error:
            if self._up:
                logger.warning("the queue cannot be measured: %s", error)
            self._up = False
            yield _up(0)
            return
        self._up = True
        yield _up(1)
        yield from queue_families(stats)

    def describe(self) -> Iterator[Metric]:
        """The metrics' names, without asking Redis for them."""
        yield GaugeMetricFamily("stablerep_store_up", _STORE_UP)
        yield _up(0)
        yield from queue_families(_EMPTY)


def queue_families(stats: QueueStats) -> Iterator[Metric]:
    """A measure of the queue as Prometheus' metrics."""
    yield GaugeMetricFamily(
        "stablerep_queue_depth",
        "Shards that workers could be busy with: waiting or in flight, of jobs that are not paused.",
        stats.depth,
    )
    yield _by_state(stats)
    yield GaugeMetricFamily("stablerep_queue_dead_shards", "Dead letters of all jobs.", stats.dead_shards)
    yield GaugeMetricFamily(
        "stablerep_queue_oldest_lease_age_seconds",
        "Since the oldest leased shard was put up for lease; 0 when none is leased.",
        stats.oldest_lease_seconds,
    )
    workers = GaugeMetricFamily(
        "stablerep_queue_workers", "Workers that the queue has heard of lately.", labels=["state"]
    )
    workers.add_metric(["busy"], stats.busy_workers)
    workers.add_metric(["idle"], stats.idle_workers)
    yield workers
    jobs = GaugeMetricFamily("stablerep_jobs", "Jobs, by state.", labels=["state"])
    for state, count in stats.job_states.items():
        jobs.add_metric([state.value], count)
    yield jobs
    yield from _events(stats)
    yield from _each_job(stats)


def _up(value: int) -> Metric:
    return GaugeMetricFamily("stablerep_queue_up", "1 while the queue server answers.", value)


def _store_up(store_answers: SingleFlightCall[object]) -> Metric:
    try:
        store_answers.get()
    except StableRepError:
        return GaugeMetricFamily("stablerep_store_up", _STORE_UP, 0)
    return GaugeMetricFamily("stablerep_store_up", _STORE_UP, 1)


def _by_state(stats: QueueStats) -> Metric:
    shards = GaugeMetricFamily(
        "stablerep_queue_shards",
        "Shards waiting and leased, of the jobs in each state.",
        labels=["job_state", "shard_state"],
    )
    for state in JobState:
        if not state.final:
            for place, count in _BACKLOG:
                total = sum(count(job) for job in stats.jobs if job.state is state)
                shards.add_metric([state.value, place], total)
    return shards


def _events(stats: QueueStats) -> Iterator[Metric]:
    failures = CounterMetricFamily(
        "stablerep_queue_failures",
        "Shards that failed with an error, and leases that ran out; tried again until the shard is dead.",
        labels=["kind"],
    )
    failures.add_metric(["error"], stats.errors)
    failures.add_metric(["lease_lost"], stats.leases_lost)
    yield failures
    yield CounterMetricFamily(
        "stablerep_queue_dead_lettered",
        "Shards given up; one that is retried may be so again.",
        stats.dead_lettered,
    )
    yield CounterMetricFamily("stablerep_queue_planned_shards", "Shards planned.", stats.planned)


def _each_job(stats: QueueStats) -> Iterator[Metric]:
    shards = GaugeMetricFamily(
        "stablerep_job_shards", "Shards of a job that is not over.", labels=["dataset", "state"]
    )
    for job in stats.jobs[:MAX_JOBS]:
        for place, count in _PLACES:
            shards.add_metric([job.dataset, place], count(job))
    yield shards
    yield GaugeMetricFamily(
        "stablerep_job_metrics_omitted",
        f"Jobs that are not over and have no series of their own, being past the {MAX_JOBS} largest.",
        max(0, len(stats.jobs) - MAX_JOBS),
    )
