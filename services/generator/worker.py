"""The worker: four threads pass shards on (fetch, generate, encode, upload) until it is drained."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from services.generator.context import WorkerContext
from services.generator.leased_shards import ShardStage
from services.generator.stages.encode import JpegEncoder
from services.generator.stages.fetch import Fetcher
from services.generator.stages.gpu import Gpu
from services.generator.stages.upload import Uploader
from services.generator.thread_group import ThreadGroup
from stablerep.config.recipe import Recipe, load_preset
from stablerep.config.settings import GeneratorSettings
from stablerep.errors import InvalidInput, Unavailable
from stablerep.generation import check_device
from stablerep.queue.client import Queue
from stablerep.storage import Store

logger = logging.getLogger("stablerep.generator")


@dataclass(frozen=True)
class Status:
    """What the worker does: LOADING, IDLE or GENERATING. Its shard is the one on the GPU, else the oldest."""

    state: str
    shard: str
    shards_done: int
    images_done: int
    recipe_digest: str
    model: str


class Worker:
    """Makes shards until drained. `run` belongs to one thread, the GPU's; any may call the rest.

    While a shard is on the GPU, the one before is encoded and uploaded, and what the one after is made of is
    read: at most `in_flight` shards are leased, each with a lease of its own. So much is in memory: their
    encoded images, at the most twice of the one that becomes a tar, and the encoder's bound of pixels.

    Delivery is at least once, the effect exactly once: a shard that has an index is only reported done, one
    that has a tar only indexed, and the queue counts a shard's first completion alone.

    Raises InvalidInput for a preset to preload that there is not.
    """

    def __init__(self, store: Store, queue: Queue, settings: GeneratorSettings) -> None:
        self._context = context = WorkerContext(store, queue, settings)
        self.name, self.drain, self.previews = context.name, context.drain, context.previews
        self.heartbeat = context.heartbeat
        self.crashed = False
        """Whether it ends by an unexpected error."""
        self._preload = _recipe_to_preload(settings.preload)
        self._loaded = self._preload is None
        self._uploader = Uploader(context)
        self._encoder = JpegEncoder(context, self._uploader)
        self._fetcher = Fetcher(context, self._uploader)
        self._gpu = Gpu(context, self._encoder, self._uploader)

    @property
    def status(self) -> Status:
        shards = sorted(
            self._context.shards.now(), key=lambda shard: shard.stage is not ShardStage.GENERATING
        )
        return Status(
            state=self._gpu.state,
            shard=shards[0].name if shards else "",
            shards_done=self._uploader.shards_done,
            images_done=self._uploader.images_done,
            recipe_digest=self._gpu.recipe_digest,
            model=self._gpu.model,
        )

    def on_first_work(self, report: Callable[[], None]) -> None:
        """Calls `report`, in any thread, once a shard is finished or none is queued."""
        self._context.readiness.report_work = report

    @property
    def problem(self) -> str:
        """Why nothing should be sent here, in a line; empty when it is ready. Servers as last seen."""
        if self.drain.ordered:
            return "stopping"
        if self._context.readiness.problem:
            return self._context.readiness.problem
        if not self._loaded:
            return f"the pipeline of {self._context.settings.preload} is not loaded yet"
        return ""

    @property
    def overdue(self) -> bool:
        """Whether the process should end without waiting for `run`.

        The grace is over, or all that `run` still waits for is a pipeline that is being loaded, which cannot
        be interrupted and may take minutes.
        """
        loading = self._gpu.state == "LOADING" and all(
            shard.stage <= ShardStage.WAITING for shard in self._context.shards.now()
        )
        return self.drain.overdue or (self.drain.ordered and loading)

    def run(self) -> None:
        """Works until the drain is ordered; a server that is away is waited for.

        Unexpected errors propagate, a broken GPU for one: the process should end then. The lease of the shard
        that it happened to runs out, the others are released.
        """
        torch.set_num_threads(self._context.settings.threads)
        _check_device(self._context.settings.device)
        try:
            if self._preload is not None:
                self._gpu.preload(self._preload)
                self._loaded = True
            self._make_shards()
        finally:
            self.previews.close()
            self.abandon()

    def abandon(self) -> None:
        """Releases all leased shards, at whatever stage, and deregisters the worker."""
        self._context.shards.release_all("the worker ends")
        try:
            self._context.queue.deregister_worker(self.name)
        except Unavailable as error:
            logger.warning("not signed off: %s", error)

    def _make_shards(self) -> None:
        threads = ThreadGroup(on_failure=self._crash)
        threads.start("fetcher", self._fetcher.run)
        threads.start("encoder", self._encoder.run)
        threads.start("uploader", self._uploader.run)
        try:
            self._gpu.run(self._fetcher.ready)
        except BaseException:
            self._crash()
            raise
        finally:
            threads.join("fetcher")
            self._encoder.end()
            threads.join("encoder")
            self._uploader.end()
            threads.join("uploader")
        threads.check()

    def _crash(self) -> None:
        """The shards that the error did not happen to are finished where they can be."""
        self.crashed = True
        self.drain.order(self._context.settings.grace_seconds)


def _recipe_to_preload(preset: str) -> Recipe | None:
    if not preset:
        return None
    try:
        return load_preset(preset).recipe
    except InvalidInput as error:
        raise InvalidInput(str(error), field="generator.preload") from error


def _check_device(device: str) -> None:
    """Before a lease is taken: a worker without its GPU would fail one shard after the other."""
    try:
        check_device(device)
    except InvalidInput as error:
        raise InvalidInput(str(error), field="generator.device") from error
