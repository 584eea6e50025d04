"""The thread that owns the GPU: pipelines, batches of the shards that are ready, previews in between."""

import logging
import math
import time
from queue import Empty, SimpleQueue

import torch

from services.generator.context import WorkerContext
from services.generator.drain import Pace
from services.generator.leased_shards import LeasedShard, ShardStage, Task
from services.generator.metrics import count_oom_halving, observe_model_load, observe_stage
from services.generator.previews import Preview
from services.generator.readiness import pause_after
from services.generator.stages.encode import JpegEncoder
from services.generator.stages.upload import Uploader
from stablerep.captions import Caption
from stablerep.config.recipe import Recipe
from stablerep.errors import InvalidInput, NotFound, StableRepError, Unavailable
from stablerep.generation import Generator, LoadedPipeline, load_pipeline
from stablerep.generation.compiled import CannotCompile, Compiled, compile_networks, networks_digest
from stablerep.shards import Group

logger = logging.getLogger("stablerep.generator")

LOADING_SECONDS = 3600.0
"""A pipeline may first have to be downloaded."""
POLL_SECONDS = 0.1
"""Between two looks for previews while there is no shard."""


class Gpu:
    """`state` is LOADING, IDLE or GENERATING; `recipe_digest` that of the recipe last loaded or made."""

    def __init__(self, worker: WorkerContext, encoder: JpegEncoder, uploader: Uploader) -> None:
        self.state = "IDLE"
        self.recipe_digest = ""
        self._worker = worker
        self._encoder = encoder
        self._uploader = uploader
        self._pipeline: LoadedPipeline | None = None
        self._generator: Generator | None = None
        self._compiled: tuple[str, Compiled | None] | None = None

    @property
    def model(self) -> str:
        """Of the pipeline that is loaded; empty if none is."""
        pipeline = self._pipeline
        return "" if pipeline is None else pipeline.model

    def preload(self, recipe: Recipe) -> None:
        """Loads the recipe's pipeline and waits for its hub if it must; returns early when the worker stops.

        Raises InvalidInput and NotFound where waiting does not help.
        """
        failures = 0
        while not self._worker.drain.ordered:
            try:
                self._compile(self._load(recipe), recipe)
                return
            except (InvalidInput, NotFound):
                raise
            except (StableRepError, OSError) as error:
                failures += 1
                self._worker.readiness.set_problem("model", error)
                self._worker.drain.wait(pause_after(failures))

    def run(self, ready: SimpleQueue[LeasedShard | None]) -> None:
        """Generates what is ready until None comes; once the worker stops, nothing more is begun."""
        while True:
            self._worker.heartbeat.beat()
            self._serve_previews(loaded_only=False)
            try:
                shard = ready.get(timeout=POLL_SECONDS)
            except Empty:
                continue
            if shard is None:
                return
            if self._worker.drain.ordered:
                self._worker.shards.release(shard, "the worker ends")
                continue
            try:
                with self._worker.shards.working_on(shard):
                    self._make(shard)
            finally:
                self.state = "IDLE"

    def _make(self, shard: LeasedShard) -> None:
        task = shard.task
        if task is None:
            return
        shard.keeper.check()
        generator = self._generator_for(task)
        self._generate(shard, task, generator)
        shard.stage = ShardStage.ENCODING
        self._encoder.put(shard, generator, None)

    def _generate(self, shard: LeasedShard, task: Task, generator: Generator) -> None:
        images = len(task.captions) * task.recipe.images_per_caption
        steps = math.ceil(images / generator.batch_images) * task.recipe.steps
        pace = shard.pace = Pace(steps=steps, groups=len(task.captions))
        shard.stage = ShardStage.GENERATING
        self.state = "GENERATING"

        def check() -> None:
            self._worker.heartbeat.beat()
            shard.keeper.check()
            if self._worker.drain.ordered:
                self._worker.drain.check(pace.seconds_left() + self._uploader.seconds)

        def on_step() -> None:
            pace.count("steps")
            check()

        for group_pixels in generator.generate_pixels(task.captions, on_step=on_step):
            pace.count("groups")
            self._encoder.put(shard, generator, group_pixels)
            if shard.over:  # another stage failed it; the rest would be generated for nothing
                return
            check()
            self._serve_previews(loaded_only=True)
        shard.generate_seconds = pace.seconds

    def _generator_for(self, task: Task) -> Generator:
        """The generator in use if it suits, else a new one on the loaded pipeline if that suits."""
        current = self._generator
        if current is None or (current.recipe, current.seed) != (task.recipe, task.seed):
            current = self._generator = self._new_generator(task.recipe, task.seed)
        self.recipe_digest = task.recipe.digest
        return current

    def _new_generator(self, recipe: Recipe, seed: int) -> Generator:
        pipeline = self._load(recipe)
        return Generator(
            recipe,
            seed=seed,
            pipeline=pipeline,
            compiled=self._compile(pipeline, recipe),
            batch_limit=self._worker.settings.batch_limit,
            on_stage=observe_stage,
            on_halved=count_oom_halving,
            lanes=self._worker.settings.lanes,
        )

    def _load(self, recipe: Recipe) -> LoadedPipeline:
        if self._pipeline is not None and self._pipeline.fits(recipe):
            return self._pipeline
        # The old one goes first: two do not fit on many a GPU.
        self._pipeline = self._generator = None
        self._compiled = None
        self.state, self.recipe_digest = "LOADING", ""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._worker.heartbeat.beat(LOADING_SECONDS)
        started = time.monotonic()
        try:
            self._pipeline = load_pipeline(recipe, self._worker.settings.device)
        except (InvalidInput, NotFound):  # the recipe's fault, not this worker's
            raise
        except StableRepError as error:
            self._worker.readiness.set_problem("model", error)
            raise
        finally:
            self.state = "IDLE"
            self._worker.heartbeat.beat()
        observe_model_load(time.monotonic() - started)
        self._worker.readiness.clear_problem("model")
        self.recipe_digest = recipe.digest
        return self._pipeline

    def _compile(self, pipeline: LoadedPipeline, recipe: Recipe) -> Compiled | None:
        """Compiled networks, where the setting wants them and the recipe has such; the last ones are kept."""
        wanted = self._worker.settings.compile
        if wanted == "off" or (wanted == "auto" and pipeline.device.type != "cuda"):
            return None
        batch, networks = self._batch(recipe), self._networks(recipe)
        if self._compiled is None or self._compiled[0] != networks:
            self._compiled = self._generator = None  # with the next ones, the last ones cannot be used
            self.state = "LOADING"
            self._worker.heartbeat.beat(LOADING_SECONDS)
            try:
                made = compile_networks(
                    pipeline, recipe, self._worker.store, search=wanted == "search", batch=batch
                )
                if made is not None and made.batch < batch:
                    logger.warning(
                        "%s runs in batches of %d images in place of %d for want of memory: on a GPU, images "
                        "then differ in the last bit from those of whole batches",
                        recipe.model,
                        made.batch,
                        batch,
                    )
                self._compiled = networks, made
            except CannotCompile as error:
                if wanted != "auto":
                    raise
                torch.compiler.reset()
                logger.warning("%s; images are made without (generator.compile=off says nothing)", error)
                self._compiled = networks, None
            finally:
                self.state = "IDLE"
                self._worker.heartbeat.beat()
        return self._compiled[1]

    def _batch(self, recipe: Recipe) -> int:
        """Images of a batch at most."""
        return min(recipe.batch_images, self._worker.settings.batch_limit or recipe.batch_images)

    def _networks(self, recipe: Recipe) -> str:
        return networks_digest(recipe, self._batch(recipe))

    def _serve_previews(self, *, loaded_only: bool) -> None:
        """Makes the groups that clients wait for; in the middle of a shard only with the pipeline in use."""

        def is_wanted(preview: Preview) -> bool:
            if not loaded_only:
                return True
            pipeline, compiled = self._pipeline, self._compiled
            if pipeline is None or not pipeline.fits(preview.recipe):
                return False
            return compiled is None or compiled[0] == self._networks(preview.recipe)

        while (preview := self._worker.previews.take(is_wanted)) is not None:
            try:
                preview.result.set_result(self._preview(preview))
            except (StableRepError, OSError) as error:
                preview.result.set_exception(error)
            finally:
                if not loaded_only:
                    self.state = "IDLE"
                if not preview.result.done():
                    preview.result.set_exception(Unavailable("the worker ended; ask another"))

    def _preview(self, preview: Preview) -> Group:
        generator = self._new_generator(preview.recipe, preview.seed)
        self.state, self.recipe_digest = "GENERATING", preview.recipe.digest
        group = next(generator.generate([Caption(preview.caption_id, preview.caption)]))
        if not group.encoded:
            raise InvalidInput(str(group.info["error"]), field="caption")
        return group
