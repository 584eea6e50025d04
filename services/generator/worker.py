"""The worker: leases a shard, makes its groups, commits it, until told to drain; in one thread."""

import logging
import math
import os
import secrets
import socket
from dataclasses import dataclass, replace

import torch
from pydantic import ValidationError

from services.generator.drain import Drain, HandBack, Pace
from services.generator.lease_keeper import LeaseKeeper, LeaseOver
from services.generator.previews import Preview, Previews
from services.heartbeat import Heartbeat
from services.logs import about
from stablerep.captions import Caption
from stablerep.errors import InvalidInput, StableRepError, TornObject, Unavailable
from stablerep.generation import Generator, LoadedPipeline, load_pipeline
from stablerep.jobs.control import record_dead
from stablerep.jobs.queue import Failure, Lease, Queue
from stablerep.jobs.recipe import Recipe
from stablerep.settings import Generator as Settings
from stablerep.storage import (
    Group,
    ShardIndex,
    Store,
    build_tar,
    commit_shard,
    read_captions,
    read_dataset,
    read_index,
    rebuild_index,
)
from stablerep.storage.layout import shard_key

logger = logging.getLogger("stablerep.generator")
STUCK_SECONDS = 600.0
"""A worker that neither made a step nor asked for work for so long is stuck."""
LOADING_SECONDS = 3600.0
"""A pipeline may first have to be downloaded."""
LONGEST_PAUSE = 5.0
"""Seconds between two attempts to reach a queue or store that is away."""


@dataclass(frozen=True)
class Status:
    """What the worker does: LOADING, IDLE or GENERATING. Replaced as a whole, so any thread may read it."""

    state: str = "IDLE"
    shard: str = ""
    shards_done: int = 0
    images_done: int = 0
    recipe_digest: str = ""


class Worker:
    """Makes shards until drained. `run` belongs to one thread; everything else may be called from any.

    Delivery is at least once, the effect exactly once: a shard that has an index is only reported done, one
    that has a tar only indexed, and the queue counts a shard's first completion alone.
    """

    def __init__(self, store: Store, queue: Queue, settings: Settings) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.drain = Drain()
        self.previews = Previews()
        self.status = Status()
        self.heartbeat = Heartbeat(STUCK_SECONDS)
        self._store = store
        self._queue = queue
        self._settings = settings
        self._pipeline: LoadedPipeline | None = None
        self._generator: Generator | None = None
        self._failures = 0  # in a row

    def run(self) -> None:
        """Works until the drain is ordered; a server that is away is waited for.

        Raises what nobody foresaw, a broken GPU for one: the process should end then, its lease runs out and
        another worker takes the shard.
        """
        torch.set_num_threads(self._settings.threads)
        try:
            while not self.drain.ordered:
                self.heartbeat.beat()
                try:
                    self._serve_previews(loaded_only=False)
                    pause = 0.0 if self._work_once() else self._settings.poll_seconds
                except Unavailable as error:
                    pause = 0.0
                    self._failures += 1
                    logger.warning("%s", error)
                self._rest(pause)
        finally:
            self.previews.close()
        self._leave()

    def _rest(self, seconds: float = 0.0) -> None:
        """Waits, longer the more went wrong in a row: a sick worker must not use up a job's attempts."""
        after_failure = min(LONGEST_PAUSE, 0.1 * 2 ** min(self._failures, 10)) if self._failures else 0.0
        self.drain.wait(max(seconds, after_failure))

    def _leave(self) -> None:
        try:
            self._queue.leave(self.name)
        except Unavailable as error:
            logger.warning("not signed off: %s", error)

    def _work_once(self) -> bool:
        """Works on one shard; False when there is none. Raises Unavailable after handing the shard back."""
        lease = self._queue.lease(self.name, self._settings.lease_seconds, on_buried=self._record_dead)
        if lease is None:
            self._failures = 0
            return False
        self.status = replace(self.status, shard=f"jobs/{lease.dataset}/shards/{lease.shard}")
        try:
            with (
                about(job=lease.dataset, shard=lease.shard),
                LeaseKeeper(self._queue, lease, self._settings.lease_seconds) as keeper,
            ):
                self._handle(lease, keeper)
        finally:
            self.status = replace(self.status, state="IDLE", shard="")
        return True

    def _handle(self, lease: Lease, keeper: LeaseKeeper) -> None:
        where = f"{lease.dataset} shard {lease.shard}"
        try:
            index = self._finished(lease) or self._make(lease, keeper)
        except LeaseOver as reason:
            logger.info("%s dropped: %s", where, reason)
            self._queue.release(lease)  # takes a cancelled job's entry away; a lost lease it leaves alone
        except HandBack:
            logger.info("%s handed back: it would not be done in time", where)
            self._queue.release(lease)
        except Unavailable:
            self._queue.release(lease)  # no fault of the shard's
            raise
        except (StableRepError, OSError) as error:
            self._failures += 1
            outcome = self._queue.fail(lease, f"{type(error).__name__}: {error}")
            logger.warning("%s failed (%s): %s", where, outcome, error)
            if outcome is Failure.DEAD:
                self._record_dead(lease.dataset)
        else:
            self._complete(lease, index)

    def _record_dead(self, dataset: str) -> None:
        """Copies the dead letters into the store; if that fails, the next shard to die takes them along."""
        try:
            record_dead(self._store, self._queue, dataset)
        except (StableRepError, OSError) as error:
            logger.warning("dead shards of %s not recorded: %s", dataset, error)

    def _finished(self, lease: Lease) -> ShardIndex | None:
        """The index of a shard that a worker before has made, wholly or up to its index."""
        index = read_index(self._store, lease.dataset, lease.shard)
        if index is None and self._store.exists(shard_key(lease.dataset, lease.shard)):
            index = rebuild_index(self._store, lease.dataset, lease.shard)
        return index

    def _make(self, lease: Lease, keeper: LeaseKeeper) -> ShardIndex:
        recipe, seed = self._read_recipe(lease.dataset)
        captions = read_captions(self._store, lease.dataset, lease.shard)
        generator = self._generator_for(recipe, seed)
        self.status = replace(self.status, state="GENERATING")
        groups = self._generate(generator, captions, keeper)
        return commit_shard(self._store, lease.dataset, lease.shard, build_tar(groups))

    def _complete(self, lease: Lease, index: ShardIndex) -> None:
        """Reports the shard done, however long the queue is away: its renewals go on meanwhile."""
        while True:
            self.heartbeat.beat()
            try:
                first = self._queue.complete(
                    lease, groups=len(index.groups), images=index.images, skipped=len(index.skipped)
                )
                break
            except Unavailable as error:
                if self.drain.ordered:
                    raise  # the lease runs out, and the next worker finds the index
                self._failures += 1
                logger.warning("%s", error)
                self._rest()
        self._failures = 0
        if first:
            status = self.status
            self.status = replace(
                status, shards_done=status.shards_done + 1, images_done=status.images_done + index.images
            )

    def _generate(self, generator: Generator, captions: list[Caption], keeper: LeaseKeeper) -> list[Group]:
        recipe = generator.recipe
        images = len(captions) * recipe.images_per_caption
        pace = Pace(
            steps=math.ceil(images / generator.batch_images) * recipe.steps,
            groups=len(captions),
        )

        def on_step() -> None:
            self.heartbeat.beat()
            pace.count("steps")
            keeper.check()
            self.drain.check(pace)

        groups = []
        for group in generator.generate(captions, on_step=on_step):
            groups.append(group)
            self.heartbeat.beat()
            pace.count("groups")
            keeper.check()
            self.drain.check(pace)
            self._serve_previews(loaded_only=True)
        made = sum(len(group.encoded) for group in groups)
        logger.info(
            "%s: %d groups, %d images, %d skipped, %.2f images/s",
            self.status.shard,
            len(groups),
            made,
            sum(not group.encoded for group in groups),
            made / max(pace.seconds, 1e-9),
        )
        return groups

    def _read_recipe(self, dataset: str) -> tuple[Recipe, int]:
        info = read_dataset(self._store, dataset)
        try:
            recipe = Recipe.model_validate(info.recipe)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise TornObject(
                f"the recipe of {dataset} cannot be followed: {problem['loc']}: {problem['msg']}"
            ) from error
        if recipe.digest != info.recipe_digest:
            raise TornObject(f"the recipe in {dataset}'s dataset.json is not the one its digest names")
        return recipe, info.job_seed

    def _generator_for(self, recipe: Recipe, seed: int) -> Generator:
        """The generator in use if it suits, else a new one on the loaded pipeline if that suits."""
        current = self._generator
        if current is None or (current.recipe, current.seed) != (recipe, seed):
            self._generator = self._new_generator(recipe, seed)
            self.status = replace(self.status, recipe_digest=recipe.digest)
            return self._generator
        return current

    def _new_generator(self, recipe: Recipe, seed: int) -> Generator:
        if self._pipeline is None or not self._pipeline.fits(recipe):
            # The old one goes first: two do not fit on many a GPU.
            self._pipeline = self._generator = None
            self.status = replace(self.status, state="LOADING", recipe_digest="")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.heartbeat.beat(LOADING_SECONDS)
            self._pipeline = load_pipeline(recipe, self._settings.device)
            self.heartbeat.beat()
            self.status = replace(self.status, recipe_digest=recipe.digest)
        limit = self._settings.batch_limit
        return Generator(recipe, seed=seed, pipeline=self._pipeline, batch_limit=limit)

    def _serve_previews(self, *, loaded_only: bool) -> None:
        """Makes the groups that clients wait for; in the middle of a shard only with the pipeline in use."""

        def is_wanted(preview: Preview) -> bool:
            pipeline = self._pipeline
            return not loaded_only or (pipeline is not None and pipeline.fits(preview.recipe))

        while (preview := self.previews.take(is_wanted)) is not None:
            try:
                preview.result.set_result(self._preview(preview))
            except (StableRepError, OSError) as error:
                preview.result.set_exception(error)
            finally:
                if not loaded_only:
                    self.status = replace(self.status, state="IDLE")
                if not preview.result.done():
                    preview.result.set_exception(Unavailable("the worker ended; ask another"))

    def _preview(self, preview: Preview) -> Group:
        generator = self._new_generator(preview.recipe, preview.seed)
        self.status = replace(self.status, state="GENERATING")
        group = next(generator.generate([preview.caption]))
        if not group.encoded:
            raise InvalidInput(str(group.info["error"]), field="caption")
        return group
