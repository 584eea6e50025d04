"""Everything a run leaves behind while it goes: metrics, checkpoints, and a bar in the terminal."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from torch import Tensor, nn

from stablerep.progress import Bars, console
from stablerep.runs.config import TrainConfig
from stablerep.runs.records import Progress as RunProgress
from stablerep.runs.records import now, write_progress
from stablerep.training.callbacks import TrainingCallback
from stablerep.training.checkpoint import CheckpointInfo, CheckpointWriter
from stablerep.training.export import keep_if_best
from stablerep.training.health import Health
from stablerep.training.logs import RunLog
from stablerep.training.run import Run
from stablerep.training.trackers import make_tracker


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps done, seconds of training behind them, the last loss over all ranks.

    `texts_cut`: captions that this rank had to cut for the text tower since the run's last start.
    """

    step: int
    seconds: float
    loss: float = math.nan
    texts_cut: int = 0


class DataWait:
    """How long steps waited for their batches since it was asked last, and for what."""

    def __init__(self) -> None:
        self._made, self._transferred, self._spent = 0.0, 0.0, dict[str, float]()

    def add(self, made: float, transferred: float, seconds: Mapping[str, float]) -> float:
        """A step waited until its batch was made, which took so many seconds, and until it was on the device.

        Returns how long it waited.
        """
        self._made += made
        self._transferred += transferred
        for what, spent in seconds.items():
            self._spent[what] = self._spent.get(what, 0.0) + spent
        return made + transferred

    def take(self, seconds: float) -> tuple[dict[str, float], str]:
        """Metrics for so many seconds of training, and words for the terminal from a wait of 2 % on."""
        share = min(1.0, (self._made + self._transferred) / seconds) if seconds > 0 else 0.0
        metrics = {
            "data_wait": share,
            **{f"{what}_seconds": spent for what, spent in self._spent.items()},
            "transfer_seconds": self._transferred,
        }
        most = "transfer"
        if self._made >= self._transferred:
            most = max(self._spent, key=lambda what: self._spent[what], default="order")
        self._made, self._transferred, self._spent = 0.0, 0.0, {}
        return metrics, f", {share:.0%} of the time waiting for data (mostly {most})" if share >= 0.02 else ""


class Reports:
    """The reports of the first rank; a context, which completes what was begun whichever way it is left."""

    def __init__(self, config: TrainConfig, run: Run, start: Progress, callback: TrainingCallback) -> None:
        self._config, self._last, self._callback = config, start, callback
        self._log = RunLog(run.store, run.name, start.step)
        self._checkpoints = CheckpointWriter(
            run.store, run.name, callback.on_checkpoint, keep=config.keep_checkpoints
        )
        self._run = run
        self._tracker = make_tracker(config)
        self._bars = Bars()
        self._health = Health()
        self._bar = self._bars.add(run.name, config.steps, start.step)
        write_progress(run.store, run.name, RunProgress(step=start.step, steps=config.steps, time=now()))

    def __enter__(self) -> Self:
        self._bars.__enter__()
        self._tracker.start(self._run.name, self._config.model_dump(mode="json"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.__exit__(kind, error, trace)
        self._log.close()
        self._checkpoints.wait()
        self._tracker.finish()

    def log(
        self,
        progress: Progress,
        *,
        losses: Mapping[str, float],
        floor: float | None,
        rate: float,
        gradient_norm: float,
        effective_rank: float,
        damaged: int,
        wait: DataWait,
    ) -> None:
        """Records the metrics after `progress.step` steps; `views_per_second` is since the last record.

        `losses` are named by the method; `floor` is the least that their sum can be for this batch; `wait` is
        since the last record, too.
        """
        steps, spent = progress.step - self._last.step, progress.seconds - self._last.seconds
        views, total = self._config.views_per_batch, self._config.steps
        rate_of_views = steps * views / spent if spent > 0 else 0.0
        left = (total - progress.step) * spent / steps if steps else 0.0
        waits, waiting = wait.take(spent)
        metrics = {
            "loss": progress.loss,
            # What the loss can fall to is the entropy of the positives: the rest compares between settings.
            **({} if floor is None else {"loss_above_floor": progress.loss - floor}),
            **({f"loss_{name}": value for name, value in losses.items()} if len(losses) > 1 else {}),
            "learning_rate": rate,
            "gradient_norm": gradient_norm,
            "effective_rank": effective_rank,
            "views": float(progress.step * views),
            "views_per_second": rate_of_views,
            "seconds": progress.seconds,
            **waits,
            **({"images_damaged": float(damaged)} if damaged else {}),
        }
        for warning in self._health.look(progress.step, effective_rank, gradient_norm):
            console.print(f"warning: {warning}")
        moment = now()
        shown = RunProgress(
            step=progress.step,
            steps=total,
            time=moment,
            loss=progress.loss,
            views_per_second=rate_of_views,
            expected_end_time=moment + timedelta(seconds=round(left)),
        )
        self._log.add(shown, metrics)
        self._tracker.log(progress.step, metrics)
        self._callback.on_metrics(metrics)
        self._bars.update(self._bar, progress.step, f"loss {progress.loss:.3f}{waiting}")
        self._last = progress

    def log_probe(self, step: int, accuracies: Mapping[str, float], encoder: nn.Module) -> None:
        """Records what a probe measured of this encoder after `step` steps, beside that step's metrics."""
        self._log.add_to(step, accuracies)
        self._tracker.log(step, accuracies)
        self._callback.on_metrics(accuracies)
        shown = ", ".join(f"{name.removeprefix('probe_')} {value:.1%}" for name, value in accuracies.items())
        best = ""
        if self._config.online_probe.keep_best and keep_if_best(
            self._run, encoder, self._config, step, accuracies
        ):
            best = ", the best so far: kept in best/"
        console.print(f"  step {step:,}: probe {shown}{best}")

    def checkpoint(self, progress: Progress, tensors: dict[str, Tensor]) -> None:
        """Starts writing a checkpoint of these copies; metrics go first, so that a resumed run finds them."""
        self._log.flush()
        info = CheckpointInfo(step=progress.step, seconds=progress.seconds, loss=progress.loss)
        self._checkpoints.write(tensors, info)

    def finish_checkpoint(self) -> None:
        """Returns once the one that was begun is in the store."""
        self._checkpoints.wait()
