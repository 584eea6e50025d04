"""The host waits for no GPU while it launches a batch: shown on torch's meta device, that of shapes alone.

What would be waited for on a GPU is a value read from it, which fails on the meta device, or a copy to it
that is not begun with `non_blocking`, which is seen among the operations.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stablerep.captions import Caption
from stablerep.config.recipe import Recipe
from stablerep.generation import Generator, generator, load_pipeline
from stablerep.generation.pipeline import LoadedPipeline
from tests.pipelines import make_random_pipeline, make_random_xl_pipeline

FROM_A_LIST = "aten.lift_fresh.default"
"""All that the meta device shows of a list, of indices say, that becomes a tensor there: another copy."""


class Waits(TorchDispatchMode):
    """Names the operations that take a tensor from the host to the device and are waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        devices = {one.device.type for one in tree_leaves((args, kwargs, result)) if is_data(one)}
        crosses = devices == {"cpu", "meta"} and not kwargs.get("non_blocking")
        if crosses or (str(func) == FROM_A_LIST and "meta" in devices):
            self.found.append(str(func))
        return result


def is_data(value: object) -> bool:
    """A number that torch wrapped is no data: it goes with the launch."""
    return isinstance(value, Tensor) and value.dim() > 0


def test_a_wait_is_found() -> None:
    images = torch.zeros(4, 3, device="meta")
    with Waits() as waits:
        images * 2.0 + 1
        torch.zeros(4, 3).to("meta", non_blocking=True)
    assert waits.found == []
    with Waits() as waits:
        images[[0, 2]]
        torch.tensor([1, 2], device="meta")
        images + torch.tensor([1, 2, 3], device="meta")
        torch.zeros(4, 3).to("meta")
        images.copy_(torch.ones(4, 3))
    assert len(waits.found) == 5, waits.found
    with pytest.raises(RuntimeError, match="meta"):
        float(images[0, 0])


@pytest.mark.parametrize("make", [make_random_pipeline, make_random_xl_pipeline])
@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_nothing_of_a_batch_is_waited_for(make, sampler: str, tmp_path: Path, monkeypatch) -> None:
    recipe = Recipe(
        model=str(make(tmp_path)),
        sampler=sampler,
        steps=3,
        guidance_scale=2.0,
        guidance_until=0.5,
        image_size=32,
        save_size=32,
        images_per_caption=2,
        batch_images=4,
        jpeg_quality=95,
        layout="slots",
        dtype="float32",
    )
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
