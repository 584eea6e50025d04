"""Stage 1 of the demo: captions to a dataset of image groups, through gateway, queue and two workers."""

from __future__ import annotations

import time
from functools import partial
from importlib.resources import files
from pathlib import Path

from stablerep.client.environment import client_from_environment
from stablerep.client.progress import show_job
from stablerep.demo.settings import DemoSettings, Images
from stablerep.errors import StableRepError
from stablerep.local.patience import patiently
from stablerep.local.services import LocalServices, local_services
from stablerep.local.tasks import Whole
from stablerep.progress import Bars

_WORKERS = 2
_SEED = 0
_POLL_SECONDS = 0.5
_CAPTIONS: dict[Images, str] = {"noun": "fashion_captions.txt", "no_noun": "fashion_captions_no_noun.txt"}


def dataset_name(images: Images) -> str:
    """The dataset that the demo makes of one kind of captions."""
    return {"noun": "demo", "no_noun": "demo-no-noun"}[images]


def dataset_url(out: Path, images: Images) -> str:
    """Where that dataset is."""
    return f"{(out / 'store').resolve().as_uri()}/datasets/{dataset_name(images)}"


def generate_images(out: Path, settings: DemoSettings, whole: Whole = None) -> None:
    """Starts the services over `out`, submits a job for each kind of captions over gRPC, waits for all.

    A job that is there already is taken up where it was. Raises StableRepError when one does not succeed.
    """
    kinds: list[Images] = sorted({method.images for method in settings.methods})
    markers = {kind: out / f"{dataset_name(kind)}.generated" for kind in kinds}
    missing = [kind for kind in kinds if not markers[kind].exists()]
    if not missing:
        return
    with Bars(whole=whole) as bars, local_services(out, workers=_WORKERS) as services:
        for kind in missing:
            _run_job(services, settings, kind, bars)
            markers[kind].touch()


def _run_job(services: LocalServices, settings: DemoSettings, kind: Images, bars: Bars) -> None:
    captions = files("stablerep") / "assets" / _CAPTIONS[kind]
    with client_from_environment(services.address) as client:
        job = client.create_job(
            dataset_name(kind),
            str(captions),
            preset="tiny",
            recipe={
                "steps": str(settings.denoising_steps),
                "images_per_caption": str(settings.images_per_caption),
                "batch_images": str(settings.batch_images),
            },
            seed=_SEED,
            limit=settings.captions,
            captions_per_shard=min(32, max(1, settings.captions // 8)),
        )
        task = bars.add(f"generate {job.dataset}", total=max(1, job.counts.shards), completed=job.counts.done)
        while not job.done:
            services.revive()
            time.sleep(_POLL_SECONDS)
            job = patiently(partial(client.get_job, job.name), meanwhile=services.revive)
            show_job(bars, task, job)
    if job.state.value != "SUCCEEDED":
        raise StableRepError(f"generation ended as {job.state.value}: {job.error or 'see the logs'}")
