"""What is trained: a method's modules as one, at the precision that this machine is fast at."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stablerep.errors import InvalidInput
from stablerep.methods.interface import Batch, MethodConfig, Parts
from stablerep.models import build_encoder, convert
from stablerep.models.load import load_encoder
from stablerep.models.teacher import Teacher
from stablerep.runs.config import TrainConfig
from stablerep.training.compiling import compile_blocks

Precision = Literal["float32", "bfloat16", "float16", "float64"]
_REDUCED = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Learner(nn.Module):
    """A batch to its losses. One module, so that DistributedDataParallel sees one forward pass."""

    encoder: Any
    image_text: Any  # of methods that know texts
    average: Any  # a Teacher of the encoder, if there is one

    def __init__(
        self,
        method: MethodConfig,
        modules: Mapping[str, nn.Module],
        precision: Precision,
        momentum: float = 0.0,
    ) -> None:
        super().__init__()
        self.method, self.precision, self._momentum = method, precision, momentum
        if momentum:
            self.average = Teacher({"encoder": modules["encoder"]})
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The losses by name, and the encoder's features [V n d] of the views, without gradient."""
        encoded = self.encode(batch)
        return self.losses(encoded, batch), encoded["features"].detach()

    @property
    def exported(self) -> Any:
        """The encoder that is probed and exported: the average, if there is one."""
        return self.average.encoder if self._momentum else self.encoder

    def follow(self, step: int) -> None:
        """After step `step`, counted from 1: the average follows the encoder, quickly in the beginning."""
        if self._momentum:
            self.average.follow(self, min(self._momentum, (1 + step) / (10 + step)))

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """What every caption contributes, each [k n ...]; see MethodConfig."""
        with self._autocast(batch):
            return self.method.encode(self, batch)

    def losses(self, encoded: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The losses of the whole batch, in float32."""
        with self._autocast(batch):
            return self.method.losses(self, encoded, batch)

    def _autocast(self, batch: Batch) -> torch.autocast:
        reduced = _REDUCED.get(self.precision)
        return torch.autocast(
            batch.views.device.type, dtype=reduced or torch.bfloat16, enabled=reduced is not None
        )


def build_learner(config: TrainConfig, device: torch.device, ranks: int) -> Learner:
    """A fresh learner, the same for every rank and every number of them. Raises InvalidInput."""
    torch.manual_seed(config.seed % 2**63)
    encoder = build_encoder(config.encoder)
    if config.init:
        _load_weights(encoder, config)
    modules = config.method.build(Parts(encoder, config.encoder, config.head))
    if ranks > 1:
        modules = {name: convert(module) for name, module in modules.items()}
    # Convolutions run 1.3 times faster on a CPU with channels last, and on tensor cores too.
    modules["encoder"] = modules["encoder"].to(memory_format=torch.channels_last)
    precision = choose_precision(config.precision, device)
    chosen = config.precision == "auto" and precision == "bfloat16"
    if chosen and device.type == "cpu" and convolves_single_pixels(encoder, config.encoder.image_size):
        precision = "float32"
    dtype = torch.float64 if precision == "float64" else torch.float32
    learner = Learner(config.method, modules, precision, config.average).to(device, dtype)
    prepare_blocks(learner.encoder, config, device)
    return learner


def prepare_blocks(encoder: Any, config: TrainConfig, device: torch.device) -> None:
    """Has the encoder's blocks compiled, or their activations computed again, as configured.

    Block by block, since methods call parts of a ViT; names of parameters stay. Raises InvalidInput for an
    encoder of another kind whose activations are to be computed again: its batch norms would count twice.
    """
    blocks = list(encoder.blocks) if isinstance(getattr(encoder, "blocks", None), nn.Sequential) else []
    has_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in encoder.modules())
    if config.recompute and (not blocks or has_norm):
        message = f"wants a ViT, whose blocks have no batch norm, not {config.encoder.name}"
        raise InvalidInput(message, field="recompute")
    compile_blocks(encoder, blocks, config, device)
    if config.recompute:
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _load_weights(encoder: nn.Module, config: TrainConfig) -> None:
    """Raises InvalidInput for the weights of another architecture, and what `load_encoder` raises."""
    weights = load_encoder(config.init).model.state_dict()
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise InvalidInput(f"{config.init} is no {config.encoder.name}: {first}", field="init") from None


def choose_precision(wanted: Literal["auto"] | Precision, device: torch.device) -> Precision:
    """bfloat16 where the hardware multiplies it, when asked to choose.

    Measured with the demo's encoder, 256 views of 28 x 28, one thread of an EPYC with AVX512-BF16: 83 ms a
    step against 131 ms in float32. Without such instructions it is emulated, and slower than float32.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if _cpu_multiplies_bfloat16() else "float32"


def convolves_single_pixels(encoder: nn.Module, size: int) -> bool:
    """Whether a 3 x 3 convolution with a stride meets a map of one pixel, as in ResNets at 16 px.

    In bfloat16 on a CPU, torch 2.15 (oneDNN) leaves weights of its gradient unwritten: whatever was in that
    memory, now and then no number. Seen on a Xeon with AVX512-BF16.
    """
    found: list[bool] = []

    def look(module: nn.Module, given: tuple[Tensor, ...], _: Any) -> None:
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1) and module.stride != (1, 1):
            found.append(min(given[0].shape[-2:]) == 1)

    training = encoder.training
    hooks = [module.register_forward_hook(look) for module in encoder.modules()]
    with torch.no_grad():
        encoder.eval()(torch.zeros(1, 3, size, size))
    encoder.train(training)
    for hook in hooks:
        hook.remove()
    return any(found)


def _cpu_multiplies_bfloat16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(hasattr(torch.cpu, name) and getattr(torch.cpu, name)() for name in checks)
