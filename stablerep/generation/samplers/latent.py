"""Stable Diffusion and Stable Diffusion XL: by embeddings, our own noise and our own loop over the steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.schedulers import AysSchedules
from torch import Tensor

from stablerep.config.recipe import Recipe
from stablerep.errors import InvalidInput
from stablerep.generation.noise import draw_noise, make_generator
from stablerep.generation.pipeline import LoadedPipeline, make_scheduler
from stablerep.generation.samplers.interface import OnStep, as_callback
from stablerep.generation.samplers.solver import SolverStep, solve, solver_steps


@dataclass(frozen=True)
class Embedding:
    """What the denoiser sees of one caption: token states [1 l d], for XL also the pooled state [1 d]."""

    states: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True)
class Networks:
    """The two networks that take the time: as they are, or compiled.

    denoiser: as `Denoiser`'s forward pass; None where diffusers' own loop runs its UNet.
    decoder: latents [n c h w] -> images [n 3 H W], -1 to 1.
    """

    denoiser: Callable[[Tensor, Tensor, Sequence[Tensor]], Tensor] | None
    decoder: Callable[[Tensor], Tensor]


class LatentSampler:
    """Stable Diffusion (1, 2, XL): captions embedded once, the empty prompt once, own noise and decoding."""

    def __init__(self, loaded: LoadedPipeline, recipe: Recipe, networks: Networks | None = None) -> None:
        vae = loaded.pipe.vae
        self._denoiser = loaded.denoiser
        self._pipe = loaded.pipe
        self._device = loaded.device
        self._recipe = recipe
        self._scheduler = make_scheduler(loaded, recipe.sampler)
        self._is_xl = isinstance(loaded.pipe, StableDiffusionXLPipeline)
        self._steps = self._own_steps()
        if self._is_xl and vae.dtype == torch.float16 and vae.config.force_upcast:
            vae.to(torch.float32)  # XL's autoencoder overflows in half precision
        networks = networks or Networks(loaded.denoiser, loaded.decoder or _whole(vae))
        self._pass, self._decoder = networks.denoiser, networks.decoder
        side, factor = recipe.image_size, loaded.pipe.vae_scale_factor
        if side % factor:
            raise InvalidInput(f"{side} is no multiple of {factor}, a latent's side", field="image_size")
        self._shape = (loaded.pipe.unet.config.in_channels, side // factor, side // factor)
        self._empty = self._embed_empty()
        # Once: a copy of numbers to a GPU is waited for, and with it all that the GPU has to do before.
        self._timesteps = torch.tensor([step.timestep for step in self._steps or ()], device=self._device)
        self._time_ids = self._make_time_ids() if self._is_xl else None
        self._times = self._make_times()
        self._latent_statistics = self._find_latent_statistics()

    @torch.inference_mode()
    def embed(self, caption: str) -> Embedding:
        if self._is_xl:
            states, _, pooled, _ = self._pipe.encode_prompt(
                prompt=caption, device=self._device, do_classifier_free_guidance=False
            )
            return Embedding(states, pooled)
        states, _ = self._pipe.encode_prompt(caption, self._device, 1, do_classifier_free_guidance=False)
        return Embedding(states)

    def tensors(self, embedding: Embedding) -> Sequence[Tensor]:
        return [each for each in (embedding.states, embedding.pooled) if each is not None]

    def is_truncated(self, caption: str) -> bool:
        tokenizer = self._pipe.tokenizer or self._pipe.tokenizer_2
        return len(tokenizer(caption).input_ids) > tokenizer.model_max_length

    @torch.inference_mode()
    def sample(self, embeddings: Sequence[Embedding], seeds: Sequence[int], on_step: OnStep | None) -> Tensor:
        generators = [make_generator(seed) for seed in seeds]
        states = torch.cat([embedding.states for embedding in embeddings])
        noise = draw_noise(generators, self._shape)
        if self._device.type == "cuda":  # from memory that need not wait for what the GPU does before it
            noise = noise.pin_memory()
        noise = noise.to(self._device, non_blocking=True).to(states.dtype)
        if self._steps is not None:
            return self._denoise(self._steps, embeddings, states, noise, on_step)
        self._pipe.scheduler = self._scheduler
        result = self._pipe(
            **self._prompts(embeddings, states),
            latents=noise,
            generator=generators,
            num_inference_steps=self._recipe.steps,
            guidance_scale=self._recipe.guidance_scale,
            height=self._recipe.image_size,
            width=self._recipe.image_size,
            output_type="latent",
            callback_on_step_end=as_callback(on_step),
        )
        return result.images

    @torch.inference_mode()
    def decode(self, samples: Tensor) -> Tensor:
        vae = self._pipe.vae
        latents = samples.to(vae.dtype) / vae.config.scaling_factor
        if self._latent_statistics is not None:
            mean, deviation = self._latent_statistics
            latents = latents * deviation + mean
        return (self._decoder(latents).float() / 2 + 0.5).clamp(0, 1)

    @property
    def own_loop(self) -> bool:
        """Whether the steps are the package's own, not those of diffusers' pipeline."""
        return self._steps is not None

    @torch.inference_mode()
    def run_once(self, batch: int) -> None:
        """Runs both networks in each shape that a batch of the recipe has: compiled ones are made then."""
        self.decode(self.denoise_once(batch))

    @torch.inference_mode()
    def denoise_once(self, batch: int) -> Tensor:
        """Runs the denoiser in each shape that a batch has; latents of that batch."""
        assert self._steps is not None
        embeddings = [self._empty] * batch
        states = torch.cat([embedding.states for embedding in embeddings])  # laid out as captions' are
        latents = torch.zeros(batch, *self._shape, device=self._device, dtype=states.dtype)
        output = self._output(self._steps, embeddings, states, latents)
        for number in {0, len(self._steps) - 1}:
            output(number, latents)
        return latents

    @torch.inference_mode()
    def _embed_empty(self) -> Embedding:
        """The unconditional side of guidance, as the pipeline itself makes it (zeros in some XL models)."""
        if self._is_xl:
            _, states, _, pooled = self._pipe.encode_prompt(prompt="", device=self._device)
            return Embedding(states, pooled)
        _, states = self._pipe.encode_prompt("", self._device, 1, do_classifier_free_guidance=True)
        return Embedding(states)

    def _own_steps(self) -> list[SolverStep] | None:
        """None where diffusers' own loop is taken: for samplers that are no plain DDIM or DPM-Solver++."""
        recipe, timesteps = self._recipe, None
        if recipe.schedule == "ays":
            timesteps = AysSchedules[f"StableDiffusion{'XL' if self._is_xl else ''}Timesteps"]
        steps = None
        if self._denoiser is not None:
            steps = solver_steps(self._scheduler, recipe.steps, timesteps)
        if steps is None and (timesteps or recipe.guidance_until < 1):
            field = "schedule" if timesteps else "guidance_until"
            message = f"{type(self._scheduler).__name__} of {recipe.model} cannot be run with another {field}"
            raise InvalidInput(message, field=field)
        return steps

    def _denoise(
        self,
        steps: Sequence[SolverStep],
        embeddings: Sequence[Embedding],
        states: Tensor,
        noise: Tensor,
        on_step: OnStep | None,
    ) -> Tensor:
        """The pipeline's loop, with everything that needs no latents done before it."""
        output = self._output(steps, embeddings, states, noise)
        return solve(steps, noise, output, on_step or (lambda: None)).to(noise.dtype)

    def _output(
        self, steps: Sequence[SolverStep], embeddings: Sequence[Embedding], states: Tensor, noise: Tensor
    ) -> Callable[[int, Tensor], Tensor]:
        """What the UNet says at step k of latents x, with guidance: (k, x) -> float32 like x."""
        step, recipe, count = self._pass, self._recipe, len(embeddings)
        assert step is not None
        assert self._denoiser is not None
        guided = round(len(steps) * recipe.guidance_until) if recipe.guidance_scale > 1 else 0
        if guided:
            states = torch.cat([self._empty.states.expand(count, -1, -1), states])
        texts, times = self._denoiser.texts(states), self._times
        if times is None:
            times = self._denoiser.times(self._timesteps, self._added(embeddings, guided > 0))
        of_captions = [text[:, -count:] for text in texts]

        def output(number: int, x: Tensor) -> Tensor:
            latents = x.to(noise.dtype)
            if number >= guided:
                return step(latents, times[number, -count:], of_captions).float()
            empty, caption = step(latents, times[number], texts).float().chunk(2)
            return empty + recipe.guidance_scale * (caption - empty)

        return output

    def _make_times(self) -> Tensor | None:
        """What the steps' times add, where it is the same for all captions: not in XL."""
        if self._steps is None or self._denoiser is None or self._is_xl:
            return None
        with torch.inference_mode():
            return self._denoiser.times(self._timesteps)

    def _added(self, embeddings: Sequence[Embedding], guided: bool) -> dict[str, Tensor]:
        """What XL adds to the time for each row: first those of the empty prompt, if guided."""
        rows = [*([self._empty] * len(embeddings) if guided else ()), *embeddings]
        assert self._time_ids is not None
        pooled = torch.cat([row.pooled for row in rows if row.pooled is not None])
        return {"text_embeds": pooled, "time_ids": self._time_ids.repeat(len(rows), 1)}

    def _make_time_ids(self) -> Tensor:
        """XL's sizes and crop, [1 6]."""
        side, dtype = self._recipe.image_size, self._empty.states.dtype
        projection = self._pipe.text_encoder_2.config.projection_dim if self._pipe.text_encoder_2 else None
        ids: Tensor = self._pipe._get_add_time_ids(
            (side, side), (0, 0), (side, side), dtype=dtype, text_encoder_projection_dim=projection
        )
        return ids.to(self._device)

    def _find_latent_statistics(self) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation, [1 c 1 1], that some XL models have of their latents; of others None."""
        vae = self._pipe.vae
        values = (vae.config.latents_mean, vae.config.latents_std)
        if not self._is_xl or None in values:
            return None
        both = torch.tensor(values, device=self._device, dtype=vae.dtype)
        return both[0].view(1, -1, 1, 1), both[1].view(1, -1, 1, 1)

    def _prompts(self, embeddings: Sequence[Embedding], states: Tensor) -> dict[str, Tensor]:
        prompts = {"prompt_embeds": states, "negative_prompt_embeds": self._empty.states.expand_as(states)}
        if self._empty.pooled is not None:
            pooled = torch.cat([embedding.pooled for embedding in embeddings if embedding.pooled is not None])
            prompts["pooled_prompt_embeds"] = pooled
            prompts["negative_pooled_prompt_embeds"] = self._empty.pooled.expand_as(pooled)
        return prompts


def _whole(vae: Any) -> Callable[[Tensor], Tensor]:
    """Another autoencoder's own decoding."""

    def decode(latents: Tensor) -> Tensor:
        images: Tensor = vae.decode(latents, return_dict=False)[0]
        return images

    return decode
