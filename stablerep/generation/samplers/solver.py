"""DDIM and DPM-Solver++ as numbers: what each step makes of the latents, known before the first one.

Song et al. 2021 (eta 0) and Lu et al. 2022 (second order, midpoint) are linear in the latents and the last
two predictions of the image: a step is one weighted sum, with no look-up and no branch that waits for a GPU.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor


@dataclass(frozen=True)
class SolverStep:
    """A step at `timestep`: image = a x + b output; next x = c x + d image + e (the step before's image).

    `output` is what the denoiser says of the latents x: the noise, or the velocity.
    """

    timestep: int
    a: float
    b: float
    c: float
    d: float
    e: float


def solve(
    steps: Sequence[SolverStep],
    noise: Tensor,
    denoise: Callable[[int, Tensor], Tensor],
    after_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """The latents, float32, that the steps make of noise; `denoise(k, x)` gives step k's output."""
    x, before = noise.float(), None
    for number, step in enumerate(steps):
        output = denoise(number, x).float()
        image = step.a * x + step.b * output
        x = step.c * x + step.d * image
        if step.e and before is not None:
            x = x + step.e * before
        before = image
        after_step()
    return x


def solver_steps(
    scheduler: Any, number: int, timesteps: Sequence[int] | None = None
) -> list[SolverStep] | None:
    """The steps of a scheduler of diffusers; None for one that is no plain DDIM or DPM-Solver++.

    `timesteps`, for DPM-Solver++ alone, stand in for its own.
    """
    config = scheduler.config
    if config.prediction_type not in ("epsilon", "v_prediction") or config.get("thresholding"):
        return None
    if type(scheduler) is DDIMScheduler and not config.clip_sample and timesteps is None:
        scheduler.set_timesteps(number)
        return _ddim(scheduler, number)
    plain = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
    if type(scheduler) is DPMSolverMultistepScheduler and all(config[k] == v for k, v in plain.items()):
        if timesteps is None:
            scheduler.set_timesteps(number)
        else:
            scheduler.set_timesteps(timesteps=list(timesteps))
        return _dpm(scheduler)
    return None


def _ddim(scheduler: Any, number: int) -> list[SolverStep]:
    alphas = scheduler.alphas_cumprod.double().tolist()
    stride = scheduler.config.num_train_timesteps // number
    made = []
    for timestep in scheduler.timesteps.tolist():
        now, previous = alphas[timestep], timestep - stride
        then = alphas[previous] if previous >= 0 else float(scheduler.final_alpha_cumprod)
        kept = math.sqrt(1 - then) / math.sqrt(1 - now)
        a, b = _to_image(scheduler, math.sqrt(now), math.sqrt(1 - now))
        made.append(SolverStep(timestep, a, b, kept, math.sqrt(then) - kept * math.sqrt(now), 0.0))
    return made


def _dpm(scheduler: Any) -> list[SolverStep]:
    config = scheduler.config
    sigmas, timesteps = scheduler.sigmas.double().tolist(), scheduler.timesteps.tolist()
    levels = [(1 / math.sqrt(s * s + 1), s / math.sqrt(s * s + 1)) for s in sigmas]  # alpha, sigma
    last = len(timesteps) - 1
    first_order_end = (
        config.euler_at_final
        or (config.lower_order_final and len(timesteps) < 15)
        or config.final_sigmas_type == "zero"
    )
    made = []
    for number, timestep in enumerate(timesteps):
        (alpha, sigma), (alpha_next, sigma_next) = levels[number], levels[number + 1]
        width = _log_snr(levels[number + 1]) - _log_snr(levels[number])
        weight = -alpha_next * math.expm1(-width)
        second = 0.0
        if number > 0 and not (number == last and first_order_end):
            second = 0.5 * weight * width / (_log_snr(levels[number]) - _log_snr(levels[number - 1]))
        a, b = _to_image(scheduler, alpha, sigma)
        made.append(SolverStep(timestep, a, b, sigma_next / sigma, weight + second, -second))
    return made


def _log_snr(level: tuple[float, float]) -> float:
    alpha, sigma = level
    return math.log(alpha) - math.log(sigma) if sigma > 0 else math.inf


def _to_image(scheduler: Any, alpha: float, sigma: float) -> tuple[float, float]:
    """Weights of the latents and of the denoiser's output in the image."""
    if scheduler.config.prediction_type == "epsilon":
        return 1 / alpha, -sigma / alpha
    return alpha, -sigma
