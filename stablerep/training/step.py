"""One training step: losses and gradients of a batch at once, or encoded in parts with the same gradients."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stablerep.data.augment.apply import augment, normalise
from stablerep.data.batches.loader import RankBatch
from stablerep.devices import to_device
from stablerep.errors import InvalidInput
from stablerep.methods.interface import Batch
from stablerep.progress import console
from stablerep.runs.config import TrainConfig
from stablerep.training.distributed import Ranks
from stablerep.training.fitting import DeviceMemory, memory_of, parts_that_fit
from stablerep.training.learner import Learner
from stablerep.training.sharding import is_spread
from stablerep.training.transfer import Transfer

Scale = Callable[[Tensor], Tensor]
_Work = Callable[[Batch], tuple[dict[str, Tensor], Tensor]]


def to_batch(
    share: RankBatch,
    config: TrainConfig,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    transfer: Transfer | None = None,
) -> Batch:
    """The share on the device, augmented, in the type of the weights."""
    transfer = transfer or Transfer(device)
    images = transfer(share.images)
    local, local_number = None, 0
    crops = config.method.needs().local
    if share.augmented:
        views = normalise(images, config.augment)
        if share.local_images is not None:
            local = normalise(transfer(share.local_images), config.augment)
    else:
        views = augment(images, share.parameters, config.augment, config.encoder.image_size)
        if crops is not None and share.local_parameters is not None:
            rows = images.unflatten(0, (share.views, -1)).repeat_interleave(crops.number, dim=0)
            local = augment(rows.flatten(0, 1), share.local_parameters, config.augment, crops.size)
    if crops is not None and local is not None:
        local, local_number = local.to(dtype), share.views * crops.number
    return Batch(
        number=share.views,
        views=views.to(dtype).contiguous(memory_format=torch.channels_last),
        labels=to_device(share.labels, device),
        label_counts=share.label_counts,
        tokens=None if share.tokens is None else to_device(share.tokens, device),
        noise=None if share.noise is None else to_device(share.noise, device),
        host_noise=share.noise,
        local=local,
        local_number=local_number,
    )


class Backward:
    """How a batch's gradients, of the scaled loss, are made: encoded at once, or in parts.

    How many parts (`encode_parts: auto`) is known with the first batch: on a device whose `memory` can be
    asked, as few as fit into it.

    Raises InvalidInput for an encoder that cannot take a batch in parts.
    """

    def __init__(
        self,
        learner: Learner,
        config: TrainConfig,
        ranks: Ranks,
        scale: Scale = lambda loss: loss,
        memory: DeviceMemory | None = None,
    ) -> None:
        self.parts = config.encode_parts if config.encode_parts != "auto" else None
        self._learner, self._ranks, self._scale = learner, ranks, scale
        self._memory = memory or memory_of(ranks.device)
        self._work: _Work | None = None
        if self.parts is None and (self._memory is None or _has_batch_norm(learner)):
            self.parts = 1
        if self.parts is not None and self.parts > 1:
            _check_parts(learner, config, self.parts, ranks)

    def __call__(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Leaves gradients, averaged over ranks; this rank's losses by name and its features [V n d]."""
        if self._work is None:
            self._work = self._begin(batch)
        return self._work(batch)

    def _begin(self, batch: Batch) -> _Work:
        learner, ranks, scale = self._learner, self._ranks, self._scale
        if self.parts is None:
            assert self._memory is not None
            self.parts = parts = parts_that_fit(learner, batch, ranks, self._memory)
            if parts > 1 and ranks.first:
                console.print(
                    f"The device's memory holds a batch's encoding in {parts} parts (encode_parts={parts})."
                )
        if (parts := self.parts) > 1:
            return lambda batch: _in_parts(learner, batch, parts, ranks, scale)
        model = learner if is_spread(learner) else _distributed(learner, ranks)

        def whole(batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
            losses, features = model(batch)
            scale(_total(losses)).backward()
            return losses, features

        return whole


def _in_parts(
    learner: Learner, batch: Batch, parts: int, ranks: Ranks, scale: Scale
) -> tuple[dict[str, Tensor], Tensor]:
    """Exact gradients of the whole batch with the encoder's activations of one part (Gao et al. 2021).

    All parts are encoded without activations; the losses of the whole give the gradient of what was encoded;
    then every part is encoded again, with the same random numbers, and takes its share of that gradient back.
    """
    captions = len(batch.labels)
    size = -(-captions // parts)
    slices = [slice(start, min(captions, start + size)) for start in range(0, captions, size)]
    generators: list[Any] = []
    encoded: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for part in slices:
            generators.append(_random_state(ranks.device))
            encoded.append(learner.encode(batch.captions(part)))
    whole = {name: torch.cat([one[name] for one in encoded], dim=1).requires_grad_() for name in encoded[0]}
    del encoded
    losses = learner.losses(whole, batch)
    scale(_total(losses)).backward()
    after = _random_state(ranks.device)
    for part, generator in zip(slices, generators, strict=True):
        _set_random_state(ranks.device, generator)
        again = learner.encode(batch.captions(part))
        taken = {name: value.grad[:, part] for name, value in whole.items() if value.grad is not None}
        learnt = [name for name in taken if again[name].requires_grad]
        torch.autograd.backward([again[name] for name in learnt], [taken[name] for name in learnt])
    _set_random_state(ranks.device, after)
    _average_gradients(learner, ranks)
    return losses, whole["features"].detach()


def _total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def _has_batch_norm(learner: Learner) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in learner.encoder.modules())


def _check_parts(learner: Learner, config: TrainConfig, parts: int, ranks: Ranks) -> None:
    if _has_batch_norm(learner):
        message = f"{config.encoder.name} has batch norm, whose statistics would be those of a part; use 1"
        raise InvalidInput(message, field="encode_parts")
    if parts > (most := config.captions_per_batch // ranks.size):
        raise InvalidInput(f"a process has {most} captions to part", field="encode_parts")


def _average_gradients(learner: Learner, ranks: Ranks) -> None:
    if ranks.size == 1 or is_spread(learner):
        return
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    waiting = [dist.all_reduce(gradient, async_op=True) for gradient in gradients]
    for gradient, work in zip(gradients, waiting, strict=True):
        if work is not None:
            work.wait()
        gradient /= ranks.size


def _distributed(learner: Learner, ranks: Ranks) -> nn.Module:
    if ranks.size == 1:
        return learner
    devices = [ranks.device] if ranks.device.type == "cuda" else None
    with warnings.catch_warnings():
        # torch 2.15 has another name for the option; older ones know this one alone.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        return DistributedDataParallel(learner, device_ids=devices, broadcast_buffers=False)


def _random_state(device: torch.device) -> Any:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Any) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
