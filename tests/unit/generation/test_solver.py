"""Steps known in advance are those of diffusers' schedulers, one by one, for any denoiser."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers.schedulers import AysSchedules
from torch import Tensor

from stablerep.generation.samplers.solver import solve, solver_steps

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KINDS: dict[str, Any] = {
    "ddim": lambda **more: DDIMScheduler(**BETAS, clip_sample=False, **more),
    "dpm++": lambda **more: DPMSolverMultistepScheduler(**BETAS, **more),
}


def denoiser(step: int, timestep: int, x: Tensor) -> Tensor:
    return torch.tanh(x + timestep / 1000) + 0.1 * step


def by_diffusers(scheduler: Any, noise: Tensor) -> list[Tensor]:
    latents, x = [], noise
    for step, timestep in enumerate(scheduler.timesteps):
        x = scheduler.step(denoiser(step, int(timestep), x), timestep, x).prev_sample
        latents.append(x)
    return latents


def by_us(steps: Any, noise: Tensor) -> list[Tensor]:
    latents: list[Tensor] = []

    def output(number: int, x: Tensor) -> Tensor:
        latents.append(x)
        return denoiser(number, steps[number].timestep, x)

    last = solve(steps, noise, output)
    return [*latents[1:], last]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("number", [1, 2, 3, 10, 14, 15, 25, 50])
def test_every_step_is_that_of_diffusers(kind, prediction, spacing, number):
    settings = {"prediction_type": prediction, "timestep_spacing": spacing}
    if spacing == "leading":
        settings["steps_offset"] = 1
    ours, theirs = KINDS[kind](**settings), KINDS[kind](**settings)
    steps = solver_steps(ours, number)
    theirs.set_timesteps(number)
    assert steps is not None
    assert [step.timestep for step in steps] == theirs.timesteps.tolist()
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for mine, wanted in zip(by_us(steps, noise), by_diffusers(theirs, noise), strict=True):
        assert float((mine - wanted).abs().max() / wanted.abs().max()) < 1e-5


@pytest.mark.parametrize("name", ["StableDiffusionTimesteps", "StableDiffusionXLTimesteps"])
def test_given_timesteps(name):
    ours, theirs = KINDS["dpm++"](), KINDS["dpm++"]()
    steps = solver_steps(ours, 10, AysSchedules[name])
    theirs.set_timesteps(timesteps=AysSchedules[name])
    assert steps is not None
    assert [step.timestep for step in steps] == AysSchedules[name]
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for mine, wanted in zip(by_us(steps, noise), by_diffusers(theirs, noise), strict=True):
        assert float((mine - wanted).abs().max() / wanted.abs().max()) < 1e-5


@pytest.mark.parametrize(
    "scheduler",
    [
        EulerDiscreteScheduler(**BETAS),
        DDIMScheduler(**BETAS, clip_sample=True),
        DDIMScheduler(**BETAS, clip_sample=False, thresholding=True),
        DDIMScheduler(**BETAS, clip_sample=False, prediction_type="sample"),
        DPMSolverMultistepScheduler(**BETAS, algorithm_type="sde-dpmsolver++"),
        DPMSolverMultistepScheduler(**BETAS, solver_order=3),
        DPMSolverMultistepScheduler(**BETAS, solver_type="heun"),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_what_is_another_sampler_is_left_to_diffusers(scheduler):
    assert solver_steps(scheduler, 10) is None


def test_ddim_takes_no_timesteps():
    assert solver_steps(KINDS["ddim"](), 10, [999, 500, 1]) is None
