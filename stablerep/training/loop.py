"""The training loop: a step, and around it what a run needs to be stopped, resumed and watched."""

import math
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stablerep.config.training import TrainConfig
from stablerep.data.augment.apply import augment
from stablerep.data.batches.loader import RankBatch, RankLoader
from stablerep.data.batches.order import BatchOrder
from stablerep.data.corpus.positive_sets import Corpus, PositiveSets, make_positive_sets, single_images
from stablerep.data.images import ImageSource
from stablerep.errors import Diverged, InvalidInput
from stablerep.objectives import multi_positive_loss
from stablerep.training.callbacks import NoCallback, TrainingCallback
from stablerep.training.checkpoint import checkpoint_steps, read_checkpoint, restore_state
from stablerep.training.distributed import Ranks
from stablerep.training.export import export_run
from stablerep.training.learner import Learner, build_learner
from stablerep.training.optimizer import build_optimizer, learning_rate
from stablerep.training.reporter import Progress, Reports
from stablerep.training.run import Run, open_run


def train(
    config: TrainConfig, ranks: Ranks, stop: threading.Event, callback: TrainingCallback | None = None
) -> dict[str, Any] | None:
    """Trains to the end, from the last checkpoint if there is one, and exports the encoder.

    Returns what is in the run's result.json, or None if `stop` was set: then a checkpoint was written, and
    the same call goes on from it. Raises InvalidInput, NotFound, AlreadyExists for a run that cannot start,
    Diverged when it can't go on.
    """
    torch.set_num_threads(config.threads)
    if config.captions_per_batch % ranks.size:
        message = (
            f"{config.captions_per_batch} captions a batch cannot be shared by {ranks.size} ranks equally"
        )
        raise InvalidInput(message, field="views_per_batch")
    run = open_run(config, ranks)
    finished = run.result()
    if finished is not None:
        return finished
    sets = _positive_sets(config, run.corpus)
    order = BatchOrder(sets, config.seed, config.captions_per_batch, config.images_drawn)
    source = ImageSource(run.corpus, memory=config.decoded_bytes)
    loader = RankLoader(order, source, config.augment, config.views_per_image, ranks.rank, ranks.size)
    learner = build_learner(config, ranks.device, ranks.size)
    optimizer = build_optimizer(learner, config)
    start = _resume(run, ranks, learner, optimizer)
    callback = callback if callback is not None and ranks.first else NoCallback()
    end = _train_steps(config, ranks, run, loader, learner, optimizer, start, stop, callback)
    if end.step < config.steps:
        return None
    result = {
        "loss": end.loss,
        "steps": end.step,
        "seconds": round(end.seconds, 1),
        "views": config.views_per_batch * config.steps,
        "images_distinct": _distinct_images(order, config.steps, run.corpus) if ranks.first else 0,
        "groups": len(sets),
        "groups_skipped": sets.skipped,
        "epochs": round(config.steps / order.steps_per_epoch, 2),
        "ranks": ranks.size,
        "device": str(ranks.device.type),
        "precision": learner.precision,
        "parameters": sum(p.numel() for p in learner.encoder.parameters()),
    }
    if ranks.first:
        export_run(run, learner.encoder, config)
        run.put_json("result.json", result)
    ranks.wait()
    return result


def _positive_sets(config: TrainConfig, corpus: Corpus) -> PositiveSets:
    if config.objective == "simclr":
        return single_images(corpus.image_counts)
    return make_positive_sets(
        corpus.captions,
        corpus.image_counts,
        at_least=config.images_per_caption,
        drop_words=config.drop_words,
    )


def _resume(run: Run, ranks: Ranks, learner: Learner, optimizer: torch.optim.Optimizer) -> Progress:
    """Restores the last checkpoint that the first rank sees, on all ranks; the start where there is none."""
    newest = max(checkpoint_steps(run.store, run.name), default=0) if ranks.first else 0
    step = int(ranks.sum([float(newest)])[0])
    if step == 0:
        return Progress(0, 0.0)
    checkpoint = read_checkpoint(run.store, run.name, step)
    restore_state(checkpoint.tensors, learner, optimizer)
    return Progress(step, checkpoint.info.seconds, checkpoint.info.loss)


def _train_steps(
    config: TrainConfig,
    ranks: Ranks,
    run: Run,
    loader: RankLoader,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    start: Progress,
    stop: threading.Event,
    callback: TrainingCallback,
) -> Progress:
    """Steps start.step .. config.steps - 1, or fewer if `stop` is set on any rank."""
    model = _distributed(learner, ranks)
    began, progress = time.monotonic(), start
    callback.on_start(run.name, start.step, config.steps)
    with Reports(config, run, start, callback) if ranks.first else nullcontext() as reports:
        for batch, waited in _timed(loader.shares(start.step, config.steps, config.prefetch)):
            step = batch.step + 1
            rate = learning_rate(config, batch.step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            # What a model draws at random, such as dropout, is then the same however the run got here.
            torch.manual_seed((config.seed + batch.step * ranks.size + ranks.rank) % 2**63)
            loss = _loss(model, batch, config, ranks.device)
            loss.backward()
            checkpointed = step % config.checkpoint_every == 0 or step == config.steps
            logged = step % config.log_every == 0 or step == config.steps
            stopping = False
            # On a GPU, looking at the loss waits for it: only now and then, and before every checkpoint.
            if ranks.device.type == "cpu" or logged or checkpointed:
                norm = _gradient_norm(learner) if logged or checkpointed else 0.0
                value, stopping = _agree(ranks, loss, norm, stop, step)
                progress = Progress(step, start.seconds + time.monotonic() - began, value)
                callback.on_loss(value)
                if logged and reports:
                    reports.log(progress, rate, norm)
            optimizer.step()
            optimizer.zero_grad()
            callback.on_step(step, config.views_per_batch, waited)
            if reports and (checkpointed or stopping):
                reports.checkpoint(progress, learner, optimizer)
            if stopping:
                break
    return progress


def _timed(shares: Iterator[RankBatch]) -> Iterator[tuple[RankBatch, float]]:
    """Each batch with the seconds that were waited for it."""
    asked = time.monotonic()
    for batch in shares:
        yield batch, time.monotonic() - asked
        asked = time.monotonic()


def _loss(model: nn.Module, batch: RankBatch, config: TrainConfig, device: torch.device) -> Tensor:
    images = batch.images.to(device, non_blocking=True)
    views = augment(images, batch.parameters, config.augment, config.encoder.image_size)
    embeddings = model(views.contiguous(memory_format=torch.channels_last), batch.views)
    labels = batch.labels.to(device).repeat(batch.views)
    return multi_positive_loss(embeddings, labels, temperature=config.temperature)


def _distributed(learner: Learner, ranks: Ranks) -> nn.Module:
    if ranks.size == 1:
        return learner
    devices = [ranks.device] if ranks.device.type == "cuda" else None
    with warnings.catch_warnings():
        # torch 2.15 has another name for the option; older ones know this one alone.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        return DistributedDataParallel(learner, device_ids=devices, broadcast_buffers=False)


def _gradient_norm(learner: Learner) -> float:
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def _agree(ranks: Ranks, loss: Tensor, norm: float, stop: threading.Event, step: int) -> tuple[float, bool]:
    """The loss over all ranks and whether any wants to stop. Raises Diverged on all ranks together."""
    own = loss.item()
    bad = not (math.isfinite(own) and math.isfinite(norm))
    total, failing, stopping = ranks.sum([0.0 if bad else own, float(bad), float(stop.is_set())])
    if failing:
        message = (
            f"the loss is not a number at step {step:,} on {failing:.0f} of {ranks.size} ranks. The last "
            "checkpoint is from before; lower optimizer.lr, lengthen the warm-up, or use precision float32"
        )
        raise Diverged(message)
    return total / ranks.size, stopping > 0


def _distinct_images(order: BatchOrder, steps: int, corpus: Corpus) -> int:
    """How many different images the run saw: the batches again, without their pixels."""
    first = np.concatenate([[0], np.cumsum(corpus.image_counts)])
    seen = np.zeros(first[-1], dtype=bool)
    for step in range(steps):
        batch = order.batch(step)
        seen[first[batch.groups] + batch.images] = True
    return int(seen.sum())
