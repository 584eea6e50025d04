"""Trains the AutoencoderKL of a tiny pipeline and folds the whitening of its latents into its weights."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from loop import Progress, learning_rate, load_checkpoint, save_checkpoint
from torch import Tensor
from torch.nn import functional

LATENT_CHANNELS = 4
KL_WEIGHT = 1e-4
# A blur costs little in L1 and MSE; the difference of neighbours makes stripes and seams worth keeping.
GRADIENT_WEIGHT = 0.5
CHECKPOINT_EVERY = 1000


def make_autoencoder(size: int, channels: tuple[int, ...]) -> AutoencoderKL:
    """An untrained autoencoder: each level after the first halves the image; latents have 4 channels."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=size,
        scaling_factor=1.0,
    )


def to_model_range(images: Tensor) -> Tensor:
    """uint8 [n h w 3] -> float [n 3 h w] between -1 and 1."""
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def train_autoencoder(
    images: Tensor,
    *,
    channels: tuple[int, ...],
    steps: int,
    batch: int,
    peak_rate: float,
    bfloat16: bool,
    seed: int,
    checkpoint: Path,
) -> AutoencoderKL:
    """Trains on images, uint8 [n h w 3]; goes on from the checkpoint if there is one."""
    torch.manual_seed(seed)
    model = make_autoencoder(images.shape[1], channels)
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak_rate, weight_decay=1e-4, fused=True)
    first = 0
    if state := load_checkpoint(checkpoint):
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    progress = Progress("autoencoder", first, steps)
    step = first
    try:
        for step in range(first, steps):
            # A generator a step, so that a resumed run draws what an uninterrupted one would have.
            random = torch.Generator().manual_seed((seed << 32) + step)
            chosen = torch.randint(len(images), (batch,), generator=random)
            pixels = to_model_range(images[chosen])
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, steps, peak_rate)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                latents = model.encode(pixels).latent_dist
                noise = torch.randn(latents.mean.shape, generator=random)
                decoded = model.decode(latents.mean + latents.std * noise).sample
            loss = _loss(decoded.float(), pixels, latents.mean.float(), latents.logvar.float())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            progress.add(step, float(loss.detach()))
            if (step + 1) % CHECKPOINT_EVERY == 0:
                _save(checkpoint, model, optimiser, step + 1)
    except KeyboardInterrupt:
        _save(checkpoint, model, optimiser, step)
        raise
    _save(checkpoint, model, optimiser, max(first, steps))
    return model.eval()


def _save(path: Path, model: AutoencoderKL, optimiser: torch.optim.Optimizer, step: int) -> None:
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
    save_checkpoint(path, state)


def _loss(decoded: Tensor, pixels: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    error = decoded - pixels
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
    distance = functional.l1_loss(decoded, pixels) + (error**2).mean()
    return distance + GRADIENT_WEIGHT * edges + KL_WEIGHT * divergence


@torch.no_grad()
def encode(model: AutoencoderKL, images: Tensor, batch: int = 256) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of the latents, each float [n 4 h/4 w/4], of uint8 images [n h w 3]."""
    means, deviations = [], []
    for part in images.split(batch):
        latents = model.encode(to_model_range(part)).latent_dist
        means.append(latents.mean)
        deviations.append(latents.std)
    return torch.cat(means), torch.cat(deviations)


@torch.no_grad()
def whiten(model: AutoencoderKL, images: Tensor) -> None:
    """Changes the 1x1 convolutions next to the latents so that each channel has mean 0, deviation 1.

    Diffusion assumes unit variance. One scaling factor cannot give it to channels that differ, and the
    pipeline has no other place to keep an offset.
    """
    means, _ = encode(model, images)
    centre = means.mean(dim=(0, 2, 3))
    scale = means.std(dim=(0, 2, 3)).clamp_min(1e-3)
    narrow, widen = model.quant_conv, model.post_quant_conv
    narrow.bias[:LATENT_CHANNELS] = (narrow.bias[:LATENT_CHANNELS] - centre) / scale
    narrow.weight[:LATENT_CHANNELS] /= scale[:, None, None, None]
    narrow.bias[LATENT_CHANNELS:] -= 2 * scale.log()
    widen.bias += widen.weight[:, :, 0, 0] @ centre
    widen.weight *= scale[None, :, None, None]
