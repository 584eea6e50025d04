"""Weights, gradients and the optimiser's state spread over the processes of a run (FSDP2); whole again."""

import warnings
from collections.abc import Iterator

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from stablerep.config.encoder import EncoderSpec
from stablerep.models import build_encoder
from stablerep.training.distributed import Ranks

_STACKS = ("blocks", "resblocks")
"""What towers call their stacks of layers: timm's ViT and MAE's decoder, open_clip's transformers."""


def shard(learner: nn.Module, ranks: Ranks) -> None:
    """Leaves 1/size of every parameter with each rank; a layer is gathered while it is computed.

    Layers of towers are gathered one by one, all else together. The learner may be called as a whole, or by
    `encode` and `losses`. Does nothing on one rank.
    """
    if ranks.size == 1:
        return
    for parameter in learner.parameters():
        # Channels last, which convolutions like and FSDP2 refuses.
        parameter.data = parameter.data.contiguous()
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    for layer in _layers(learner):
        fully_shard(layer, mesh=mesh)
    fully_shard(learner, mesh=mesh)
    # The views' features are a view of the encoder's output; nobody writes into them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)
    for name in ("encode", "losses"):
        register_fsdp_forward_method(learner, name)


def whole(value: Tensor) -> Tensor:
    """The tensor itself, or all of a spread one. To be called by every rank."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def spread_like(value: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a tensor that every rank has, spread as `like` is, if it is."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole_encoder(encoder: nn.Module, spec: EncoderSpec) -> nn.Module:
    """The encoder itself, or a copy of one that is spread. To be called by every rank."""
    if not is_spread(encoder):
        return encoder
    copy = build_encoder(spec).to(next(encoder.parameters()).dtype)
    copy.load_state_dict({name: whole(value) for name, value in encoder.state_dict().items()})
    return copy


def is_spread(module: nn.Module) -> bool:
    """Whether the module's parameters are spread over ranks."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def bytes_here(module: nn.Module) -> int:
    """What this rank holds of the module's weights."""
    own = (p.to_local() if isinstance(p, DTensor) else p for p in module.parameters())
    return sum(weights.numel() * weights.element_size() for weights in own)


def _layers(learner: nn.Module) -> Iterator[nn.Module]:
    for name, module in learner.named_modules():
        if name.rpartition(".")[2] in _STACKS:
            yield from module.children()
