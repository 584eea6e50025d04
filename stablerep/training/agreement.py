"""What all ranks know after a step, and why they end together: divergence, damage, another owner."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stablerep.data.batches.loader import RankBatch, RankLoader
from stablerep.errors import AlreadyExists, TornObject
from stablerep.runs.config import TrainConfig
from stablerep.training.checkpoint import checkpoint_steps
from stablerep.training.distributed import Ranks
from stablerep.training.run import Run


@dataclass(frozen=True)
class Agreed:
    """What all ranks know after a step.

    Attributes:
        losses: by name; `loss` is their sum.
        floor: the least that the sum can be, where the method knows it.
        failing: ranks whose loss or gradient is not a number.
    """

    loss: float
    losses: dict[str, float]
    floor: float | None
    stopping: bool
    failing: int
    damaged: int


def last_checkpoint(run: Run, ranks: Ranks) -> int:
    """The step of the last one that the first rank sees, on all ranks; 0: none."""
    newest = max(checkpoint_steps(run.store, run.name), default=0) if ranks.first else 0
    return int(ranks.sum([float(newest)])[0])


def taken_over(run: str) -> AlreadyExists:
    """What a process ends with whose run another one owns."""
    return AlreadyExists(f"another process trains run {run} now; this one has ended", field="run")


def agree(
    config: TrainConfig,
    ranks: Ranks,
    run: Run,
    loader: RankLoader,
    share: RankBatch,
    losses: dict[str, Tensor],
    norm: float | None,
    *,
    stopping: bool,
    displaced: bool,
) -> Agreed:
    """The losses over all ranks and whether any wants to stop. What one rank cannot go on with, all raise."""
    own = torch.stack(list(losses.values())).tolist()
    bad = not all(map(math.isfinite, [*own, norm or 0.0]))
    floor = config.method.floor(share.label_counts)
    damaged, decoded = loader.source.counts()
    sums = ranks.sum(
        [
            *([0.0] * len(own) if bad else own),
            floor or 0.0,
            float(bad),
            float(stopping),
            float(displaced),
            float(damaged),
            float(decoded),
        ]
    )
    *total, floors, failing, any_stopping, any_displaced, all_damaged, all_decoded = sums
    if any_displaced:
        raise taken_over(run.name)
    if all_damaged > config.damaged_share * (all_damaged + all_decoded):
        _refuse_damage(loader, all_damaged, all_damaged + all_decoded)
    mean = [value / ranks.size for value in total]
    return Agreed(
        loss=sum(mean),
        losses=dict(zip(losses, mean, strict=True)),
        floor=None if floor is None else floors / ranks.size,
        stopping=any_stopping > 0,
        failing=int(failing),
        damaged=int(all_damaged) if not loader.source.kept else damaged,
    )


def record_divergence(config: TrainConfig, ranks: Ranks, run: Run, share: RankBatch, failing: int) -> str:
    """Keeps which batch it was, and says how to see it again."""
    step, last = share.step + 1, last_checkpoint(run, ranks)
    if ranks.first:
        groups = np.unique(share.groups)
        record = {
            "step": step,
            "last_checkpoint": last,
            "ranks_failing": failing,
            "captions": [run.corpus.where(int(group)) for group in groups],
        }
        run.put_json(f"diverged/{step:08d}.json", record)
    return (
        f"the loss is not a number at step {step:,} on {failing} of {ranks.size} ranks. The last checkpoint "
        f"is of step {last:,}; the batch's captions are in {config.run}/diverged/{step:08d}.json. The same "
        "command goes on from the checkpoint and meets the same batch again. In a new run, lower "
        "optimizer.lr, lengthen optimizer.warmup_steps, set optimizer.clip_norm, or use precision=float32"
    )


def _refuse_damage(loader: RankLoader, damaged: float, images: float) -> None:
    detail = loader.source.describe_damage() or "on other ranks"
    raise TornObject(
        f"{damaged:,.0f} of {images:,.0f} images are damaged, more than damaged_share allows: {detail}"
    )
