"""The host waits for no GPU while it launches a batch (tests/waits.py)."""

from pathlib import Path

import pytest
import torch

from stablerep.captions import Caption
from stablerep.config.recipe import Recipe
from stablerep.generation import Generator, generator, load_pipeline
from stablerep.generation.pipeline import LoadedPipeline
from tests.pipelines import make_random_pipeline, make_random_xl_pipeline
from tests.waits import Waits


@pytest.mark.parametrize("make", [make_random_pipeline, make_random_xl_pipeline])
@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_nothing_of_a_batch_is_waited_for(
    make, sampler: str, tiny_recipe: Recipe, tmp_path: Path, monkeypatch
) -> None:
    changed = {"model": str(make(tmp_path)), "sampler": sampler, "steps": 3, "layout": "slots"}
    recipe = Recipe(**{**tiny_recipe.model_dump(), **changed, "guidance_until": 0.5})
    loaded = load_pipeline(recipe, "cpu")
    if make is make_random_xl_pipeline:
        loaded.pipe.vae.register_to_config(
            latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 0.5, 2.0, 1.5]
        )
    for name, part in loaded.pipe.components.items():
        if isinstance(part, torch.nn.Module):
            setattr(loaded.pipe, name, part.to("meta"))
    device = torch.device("meta")
    on_meta = LoadedPipeline(
        loaded.model, loaded.revision, loaded.dtype, device, loaded.pipe, loaded.scheduler
    )
    sent = []
    monkeypatch.setattr(generator, "send_to_host", lambda *given: sent.append(given))
    made, steps = Generator(recipe, pipeline=on_meta), []
    rows = made._embed(Caption(1, "a red shoe")).rows()  # this waits, in a lane of its own
    with Waits() as waits:
        made._launch(rows, generator._Run(device, lambda: steps.append(1)))
    assert waits.found == []
    assert len(steps) == 3
    ((images, sent_rows, places, _),) = sent
    assert (images.device.type, tuple(images.shape)) == ("meta", (4, 3, 32, 32))
    assert (sent_rows, places) == (rows, [2, 3])
