"""A training run's Prometheus metrics, exported by the first rank; docs/operations.md lists every metric."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram, Info

from services.health.heartbeat import Heartbeat
from services.health.http import serve_probes

STUCK_SECONDS = 3600.0
"""A run that did no step for so long is stuck; before the first one it reads all captions."""
_run = Info("stablerep_training_run", "The run that this process trains; always 1.")
_step = Gauge("stablerep_training_step", "Steps done in all, those before a restart included.")
_planned = Gauge("stablerep_training_planned_steps", "Steps at which the run is finished.")
_steps = Counter("stablerep_training_steps_total", "Steps done by this process.")
_images = Counter(
    "stablerep_training_views_total", "Augmented images that all ranks have seen in these steps."
)
_loss = Gauge("stablerep_training_loss", "Loss over all ranks, when it was last looked at.")
_waited = Counter(
    "stablerep_training_data_wait_seconds_total",
    "Time in which the first rank's device was idle for want of images.",
)
_measure = Gauge(
    "stablerep_training_measure",
    "What the run logged last, by its name in metrics.jsonl: learning rate, gradient norm, probes, ...",
    ["name"],
)
_checkpoint = Histogram(
    "stablerep_training_checkpoint_seconds",
    "Time to write a checkpoint into the store, while training continues.",
    buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
)


class PrometheusCallback:
    """Keeps this process's metrics; see stablerep/training/callbacks.py."""

    def __init__(self) -> None:
        self.heartbeat = Heartbeat(STUCK_SECONDS)
        self.begun = False

    def on_start(self, run: str, step: int, steps: int) -> None:
        """Name and length of the run."""
        _run.info({"run": run})
        _step.set(step)
        _planned.set(steps)
        self.begun = True

    def on_step(self, step: int, views: int, waited: float) -> None:
        """One more step."""
        self.heartbeat.beat()
        _step.set(step)
        _steps.inc()
        _images.inc(views)
        _waited.inc(waited)

    def on_loss(self, loss: float) -> None:
        """The last loss."""
        _loss.set(loss)

    def on_metrics(self, metrics: Mapping[str, float]) -> None:
        """What was logged."""
        for name, value in metrics.items():
            _measure.labels(name).set(value)

    def on_checkpoint(self, seconds: float) -> None:
        """One more checkpoint."""
        _checkpoint.observe(seconds)


@contextmanager
def training_probes(address: str) -> Iterator[PrometheusCallback]:
    """A watch whose numbers are served on `address` within the block; on none when it is empty.

    Raises:
        InvalidInput: the address cannot be listened on.
    """
    callback = PrometheusCallback()
    probes = serve_probes(
        address,
        ready=lambda: "" if callback.begun else "the run has not begun",
        alive=lambda: "" if callback.heartbeat.alive else f"no step in {STUCK_SECONDS:g} s",
        field="trainer.metrics_address",
    )
    try:
        yield callback
    finally:
        if probes is not None:
            probes.close()
