"""Batch norm whose statistics span all ranks, on any backend and for several views in one collective.

`torch.nn.SyncBatchNorm` refuses CPU tensors and would need one call, and so one collective, a view. Here the
batch is read as `views` blocks of equal length along the first axis (view-major, as the projection head of
StableRep sees it); every block gets its own statistics over all ranks, and one all-gather carries them all.
Parameters and buffers are those of `torch.nn.BatchNorm*`, so state dicts go both ways.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stablerep.objectives.gather import world_size


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over [views*n C ...]: each view by its own statistics, over n, the rest and ranks."""

    def forward(self, input: Tensor, views: int = 1) -> Tensor:
        """Equal to `views` calls of torch.nn.BatchNorm on the blocks, each with the rows of all ranks."""
        if not self.training and self.running_mean is not None:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        if world_size() == 1:
            blocks = [self._normalise_alone(block) for block in input.chunk(views)]
            return blocks[0] if views == 1 else torch.cat(blocks)
        blocks = input.unflatten(0, (views, len(input) // views))
        weight = input.new_ones(self.num_features) if self.weight is None else self.weight
        bias = input.new_zeros(self.num_features) if self.bias is None else self.bias
        output, mean, variance, count = _NormaliseTogether.apply(blocks, weight, bias, self.eps)
        self._track(mean, variance * (count / (count - 1).clamp(min=1)))
        return output.flatten(0, 1)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes will do: the statistics are over all but the second."""

    def _normalise_alone(self, block: Tensor) -> Tensor:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(
            block, self.running_mean, self.running_var, self.weight, self.bias, True, self._rate(), self.eps
        )

    def _rate(self) -> float:
        """How far the running statistics move; without a momentum they are the mean over all batches."""
        if self.momentum is not None:
            return self.momentum
        return 1.0 if self.num_batches_tracked is None else 1.0 / float(self.num_batches_tracked)

    @torch.no_grad()
    def _track(self, means: Tensor, variances: Tensor) -> None:
        """Moves the running statistics once a view, in order, as a call for each would."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        for mean, variance in zip(means, variances, strict=True):
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self._rate())
            self.running_var.lerp_(variance.to(self.running_var.dtype), self._rate())


class _NormaliseTogether(torch.autograd.Function):
    """(x - mean) / deviation * weight + bias for x [V n C ...] with statistics over n, the rest and ranks.

    Also returns mean and biased variance [V C] and the count behind them, which carry no gradient. Arithmetic
    is in float32 (float64 for float64); ranks' statistics are merged by Chan's formula, since a sum of
    squares would lose digits where the mean is large.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes = [1, *range(3, x.ndim)]
        exact = x if x.dtype == torch.float64 else x.float()
        local_variance, local_mean = torch.var_mean(exact, axes, correction=0)  # [V C]
        count = x.new_full((), x.numel() // (x.shape[0] * x.shape[2]), dtype=exact.dtype)
        packed = torch.cat([local_mean.flatten(), local_variance.flatten(), count[None]])
        parts = [torch.empty_like(packed) for _ in range(world_size())]
        dist.all_gather(parts, packed)
        gathered = torch.stack(parts)  # [ranks, 2*V*C + 1]
        means, variances = gathered[:, :-1].unflatten(1, (2, *local_mean.shape)).unbind(1)
        counts = gathered[:, -1, None, None]
        total = counts.sum()
        share = counts / total
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean).square())).sum(0)
        inverse_deviation = (variance + eps).rsqrt()
        normal = (exact - _over(mean, x)) * _over(inverse_deviation, x)
        output = normal * _over(weight.to(exact.dtype)[None], x) + _over(bias.to(exact.dtype)[None], x)
        ctx.save_for_backward(x, weight, mean, inverse_deviation, total)
        ctx.mark_non_differentiable(mean, variance, total)
        return output.to(x.dtype), mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_deviation, total = ctx.saved_tensors
        axes = [1, *range(3, x.ndim)]
        gradient = gradients[0].to(mean.dtype)
        normal = (x.to(mean.dtype) - _over(mean, x)) * _over(inverse_deviation, x)
        sums = torch.stack([gradient.sum(axes), (gradient * normal).sum(axes)])  # [2 V C]
        bias_gradient, weight_gradient = sums.sum(1)  # this rank's share: the gradients are averaged later
        dist.all_reduce(sums)
        gradient_mean, slope = sums / total
        scale = weight.to(mean.dtype) * inverse_deviation
        centred = gradient - _over(gradient_mean, x) - normal * _over(slope, x)
        x_gradient = centred * _over(scale, x)
        return x_gradient.to(x.dtype), weight_gradient.to(weight.dtype), bias_gradient.to(weight.dtype), None


def _over(values: Tensor, x: Tensor) -> Tensor:
    """[V C] as [V 1 C 1 ...], to meet x [V n C ...]."""
    return values.reshape(values.shape[0], 1, values.shape[1], *[1] * (x.ndim - 3))


class _SyncBatchNormAct(SyncBatchNorm):
    """What timm fuses into one module: batch norm, then dropout and activation, under the same names."""

    def __init__(self, original: BatchNormAct2d) -> None:
        super().__init__(original.num_features, original.eps, original.momentum)
        self.drop = original.drop
        self.act = original.act

    def forward(self, input: Tensor, views: int = 1) -> Tensor:
        return self.act(self.drop(super().forward(input, views)))


def convert(module: nn.Module) -> nn.Module:
    """`module` with every torch batch norm inside replaced by one that spans ranks; names stay the same."""
    if isinstance(module, SyncBatchNorm) or not isinstance(module, nn.modules.batchnorm._BatchNorm):
        for name, child in module.named_children():
            setattr(module, name, convert(child))
        return module
    if isinstance(module, BatchNormAct2d):
        replacement: SyncBatchNorm = _SyncBatchNormAct(module)
    else:
        replacement = SyncBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
    replacement.weight, replacement.bias = module.weight, module.bias
    for name, buffer in module.named_buffers(recurse=False):
        setattr(replacement, name, buffer)
    return replacement.train(module.training)
