"""The training loop: a step, and around it what a run needs to be stopped, resumed and watched."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stablerep.data.batches.loader import RankBatch, RankLoader
from stablerep.data.batches.process import shares_by_process
from stablerep.data.images import ImageSource
from stablerep.devices import out_of_memory, short_of_memory
from stablerep.errors import Diverged, InvalidInput
from stablerep.evaluation.effective_rank import effective_rank
from stablerep.runs.config import TrainConfig
from stablerep.shards.layout import run_key
from stablerep.training.agreement import agree, last_checkpoint, record_divergence, taken_over
from stablerep.training.callbacks import NoCallback, TrainingCallback
from stablerep.training.checkpoint import collect_state, read_checkpoint, restore_state
from stablerep.training.distributed import Ranks
from stablerep.training.export import export_run
from stablerep.training.feeding import (
    Place,
    loads_in_process,
    make_loader,
    make_order,
    open_loader,
    positive_sets,
)
from stablerep.training.following import when_all_are_ready
from stablerep.training.idle import idle_of
from stablerep.training.learner import Learner, build_learner
from stablerep.training.online_probe import make_online_probe, probe_is_due
from stablerep.training.optimizer import build_optimizer, schedule
from stablerep.training.reporter import DataWait, Progress, Reports
from stablerep.training.run import Run, open_run, with_kept_tokenizer
from stablerep.training.scaling import LossScale
from stablerep.training.seen import SeenImages
from stablerep.training.sharding import shard, whole, whole_encoder
from stablerep.training.starts import owned
from stablerep.training.step import Backward, to_batch
from stablerep.training.transfer import Transfer

_TAKES_LESS = (
    "A larger encode_parts, recompute=true, or shard=true on several GPUs take less and learn the same; "
    "fewer views_per_batch learn otherwise. A run goes on from its last checkpoint."
)
_RANK_ROWS = 512
"""Rows that the effective rank is measured on: enough for its sign, and quick."""


def train(
    config: TrainConfig, ranks: Ranks, stop: threading.Event, callback: TrainingCallback | None = None
) -> dict[str, Any] | None:
    """Trains to the end, from the last checkpoint if there is one, and exports the encoder.

    Returns what is in the run's result.json, or None if `stop` was set: then a checkpoint was written, and
    the same call goes on from it. Raises InvalidInput, NotFound, AlreadyExists for a run that cannot start,
    TornObject for a dataset with too many damaged images, Diverged when it can't go on.
    """
    torch.set_num_threads(config.threads)
    if config.captions_per_batch % ranks.size:
        message = (
            f"{config.captions_per_batch} captions a batch cannot be shared by {ranks.size} ranks equally"
        )
        raise InvalidInput(message, field="views_per_batch")
    run = open_run(config, ranks, stop)
    config = with_kept_tokenizer(config, config.run)
    finished = run.result()
    if finished is not None and finished["steps"] >= config.steps:
        return finished
    displaced = threading.Event()
    with ExitStack() as ownership:
        with ranks.together():
            if ranks.first:
                ownership.enter_context(owned(run.store, run.name, ranks.device, ranks.size, displaced.set))
        try:
            return _train(config, ranks, run, _Signals(stop, displaced), callback)
        except RuntimeError as error:
            if not short_of_memory(error):
                raise
            raise out_of_memory(error, _TAKES_LESS) from error


@dataclass(frozen=True)
class _Signals:
    """What may end the loop: `stop` asks for it, `displaced` says that another process trains the run now."""

    stop: threading.Event
    displaced: threading.Event


def _train(
    config: TrainConfig, ranks: Ranks, run: Run, signals: _Signals, callback: TrainingCallback | None
) -> dict[str, Any] | None:
    texts, sets = positive_sets(config, run.corpus)
    order = make_order(config, run.corpus, sets)
    # Images that are not there yet cannot be decoded on opening.
    memory = config.decoded_bytes if all(one.is_whole() for one in run.corpus.growing) else None
    source = ImageSource(run.corpus, memory=memory, resolution=config.decoded_resolution)
    learner = build_learner(config, ranks.device, ranks.size)
    if config.shard:
        shard(learner, ranks)
    patches = learner.encoder.patch_embed.num_patches if config.method.needs().noise else 0
    place = Place(ranks.rank, ranks.size, ranks.device.type, patches)
    loader = make_loader(config, place, run.corpus, order, source, texts)
    optimizer = build_optimizer(learner, config)
    seen = SeenImages(run.corpus.image_counts)
    scaling = LossScale(learner.precision, ranks.device)
    start = _resume(run, ranks, learner, optimizer, seen, scaling)
    callback = callback if callback is not None and ranks.first else NoCallback()
    try:
        end = _train_steps(
            config, ranks, run, loader, place, learner, optimizer, start, signals, callback, seen, scaling
        )
    finally:
        for dataset in run.corpus.growing:
            dataset.cancelled.set()
    if end.step < config.steps:
        return None
    damaged, cut = ranks.sum([float(source.counts()[0]), float(end.texts_cut)])
    result = {
        "loss": end.loss,
        "steps": end.step,
        "seconds": round(end.seconds, 1),
        "views": config.views_per_batch * config.steps,
        "images_distinct": seen.count(),
        "images_damaged": int(damaged) if source.kept is False else source.counts()[0],
        "groups": len(sets),
        "groups_skipped": sets.skipped,
        "epochs": round(config.steps / order.steps_per_epoch, 2),
        "method": config.method.name,
        "ranks": ranks.size,
        "device": str(ranks.device.type),
        "precision": learner.precision,
        "parameters": sum(p.numel() for p in learner.encoder.parameters()),
    }
    if run.corpus.growing:
        passed = run.store.list(run_key(run.name, "passed_over/"))
        result["shards_passed_over"] = sum(1 for _ in passed)
    if config.method.needs().texts:
        result["texts_cut"] = int(cut)
    encoder = whole_encoder(learner.exported, config.encoder)
    if ranks.first:
        export_run(run, encoder, config)
        run.put_json("result.json", result)
    ranks.wait()
    return result


def _resume(
    run: Run,
    ranks: Ranks,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    seen: SeenImages,
    scaling: LossScale,
) -> Progress:
    """Restores the last checkpoint that the first rank sees, on all ranks; the start where there is none."""
    step = last_checkpoint(run, ranks)
    if step == 0:
        return Progress(0, 0.0)
    checkpoint = read_checkpoint(run.store, run.name, step)
    restore_state(checkpoint.tensors, learner, optimizer)
    seen.restore(checkpoint.tensors)
    scaling.restore(checkpoint.tensors)
    return Progress(step, checkpoint.info.seconds, checkpoint.info.loss)


def _train_steps(
    config: TrainConfig,
    ranks: Ranks,
    run: Run,
    loader: RankLoader,
    place: Place,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    start: Progress,
    signals: _Signals,
    callback: TrainingCallback,
    seen: SeenImages,
    scaling: LossScale,
) -> Progress:
    """Steps start.step .. config.steps - 1, or fewer if `stop` is set on any rank."""
    backward = Backward(learner, config, ranks, scaling.scale)
    dtype = next(learner.parameters()).dtype
    began, progress, cut, step, wait = time.monotonic(), start, 0, start.step, DataWait()
    idle, transfer = idle_of(ranks.device), Transfer(ranks.device)
    callback.on_start(run.name, start.step, config.steps)
    with ExitStack() as reporting:
        reports = reporting.enter_context(Reports(config, run, start, callback)) if ranks.first else None
        probe = make_online_probe(config) if ranks.first else None

        def keep_state() -> None:
            if reports:
                reports.finish_checkpoint()  # or two copies of the state would be in memory
            state = collect_state(learner, optimizer, keep=ranks.first)
            if reports:
                reports.checkpoint(progress, {**state, **seen.state(), **scaling.state()})

        ahead, go_on, left = config.prefetch, None, threading.Event()
        if run.corpus.growing:
            lost = signals.displaced.is_set
            ahead, go_on = (
                max(1, ahead),
                when_all_are_ready(
                    ranks, signals.stop.is_set, left.set, lambda: taken_over(run.name) if lost() else None
                ),
            )
        kept, follows = loader.source.kept, go_on is not None
        if loads_in_process(config, place, in_memory=kept, follows=follows):
            make = partial(open_loader, config, place)
            shares = shares_by_process(loader, make, start.step, config.steps, ahead)
        else:
            shares = loader.shares(start.step, config.steps, ahead, go_on=go_on)
        for share, seconds_waited in _timed(reporting.enter_context(closing(shares))):
            step = share.step + 1
            idle.arrived(seconds_waited)
            rates = schedule(config, share.step)
            rates.apply(optimizer)
            # What a model draws at random, such as dropout, is then the same however the run got here.
            torch.manual_seed((config.seed + share.step * ranks.size + ranks.rank) % 2**63)
            losses, features = backward(to_batch(share, config, ranks.device, dtype, transfer))
            waited = wait.add(idle.take(), transfer.take(), share.seconds)
            cut += share.cut
            seen.add(share.groups, share.numbers)
            scaling.unscale(optimizer)
            clipped = _clip(learner, config)
            checkpointed = step % config.checkpoint_every == 0 or step == config.steps
            logged = step % config.log_every == 0 or step == config.steps
            stopping = False
            # On a GPU, looking at the loss waits for it: only now and then, and before every checkpoint.
            if ranks.device.type == "cpu" or logged or checkpointed:
                norm = None if clipped is None else scaling.finite(float(clipped))
                if norm is None and (logged or checkpointed):
                    norm = scaling.finite(_gradient_norm(learner))
                seconds = start.seconds + time.monotonic() - began
                agreed = agree(
                    config,
                    ranks,
                    run,
                    loader,
                    share,
                    losses,
                    norm,
                    stopping=signals.stop.is_set(),
                    displaced=signals.displaced.is_set(),
                )
                if agreed.failing:
                    if reports:
                        reports.finish_checkpoint()
                    raise Diverged(record_divergence(config, ranks, run, share, agreed.failing))
                stopping = agreed.stopping
                progress = Progress(step, seconds, agreed.loss, cut)
                callback.on_loss(agreed.loss)
                if logged and reports:
                    directions = effective_rank(features.flatten(0, 1)[:_RANK_ROWS])
                    reports.log(
                        progress,
                        losses=agreed.losses,
                        floor=agreed.floor,
                        rate=rates.rate,
                        gradient_norm=float(norm or 0.0),
                        effective_rank=directions,
                        damaged=agreed.damaged,
                        wait=wait,
                    )
            scaling.step(optimizer)
            optimizer.zero_grad()
            config.method.after_step(learner, step / config.steps)
            learner.follow(step)
            idle.launched()
            callback.on_step(step, config.views_per_batch, waited)
            if probe_is_due(config, step):
                encoder = whole_encoder(learner.exported, config.encoder)
                if probe and reports:
                    reports.log_probe(step, probe.measure(encoder), encoder)
            if checkpointed or stopping:
                keep_state()
            if stopping:
                break
        if left.is_set():
            progress = Progress(step, start.seconds + time.monotonic() - began, progress.loss, cut)
            if step > start.step:
                keep_state()
    return progress


def _timed(shares: Iterator[RankBatch]) -> Iterator[tuple[RankBatch, float]]:
    """Each batch with the seconds that were waited for it."""
    asked = time.monotonic()
    for batch in shares:
        yield batch, time.monotonic() - asked
        asked = time.monotonic()


def _clip(learner: Learner, config: TrainConfig) -> Tensor | None:
    """Scales the gradients down to the configured norm; their norm before, or None if it was not computed."""
    if config.optimizer.clip_norm is None:
        return None
    return whole(torch.nn.utils.clip_grad_norm_(learner.parameters(), config.optimizer.clip_norm))


def _gradient_norm(learner: Learner) -> float:
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    return float(whole(torch.nn.utils.get_total_norm(gradients)))
