"""Stable Diffusion and Stable Diffusion XL: by embeddings and our own noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from stablerep.config.recipe import Recipe
from stablerep.errors import InvalidInput
from stablerep.generation.noise import draw_noise, make_generator
from stablerep.generation.pipeline import LoadedPipeline, make_scheduler
from stablerep.generation.samplers.interface import OnStep, as_callback


@dataclass(frozen=True)
class Embedding:
    """What the denoiser sees of one caption: token states [1 l d], for XL also the pooled state [1 d]."""

    states: Tensor
    pooled: Tensor | None = None


class LatentSampler:
    """Stable Diffusion (1, 2, XL): captions embedded once, the empty prompt once, own noise and decoding."""

    def __init__(self, loaded: LoadedPipeline, recipe: Recipe) -> None:
        self._pipe = loaded.pipe
        self._device = loaded.device
        self._recipe = recipe
        self._scheduler = make_scheduler(loaded, recipe.sampler)
        self._is_xl = isinstance(loaded.pipe, StableDiffusionXLPipeline)
        vae = loaded.pipe.vae
        if self._is_xl and vae.dtype == torch.float16 and vae.config.force_upcast:
            vae.to(torch.float32)  # XL's autoencoder overflows in half precision
        side, factor = recipe.image_size, loaded.pipe.vae_scale_factor
        if side % factor:
            raise InvalidInput(f"{side} is no multiple of {factor}, a latent's side", field="image_size")
        self._shape = (loaded.pipe.unet.config.in_channels, side // factor, side // factor)
        self._empty = self._embed_empty()

    @torch.inference_mode()
    def embed(self, caption: str) -> Embedding:
        if self._is_xl:
            states, _, pooled, _ = self._pipe.encode_prompt(
                prompt=caption, device=self._device, do_classifier_free_guidance=False
            )
            return Embedding(states, pooled)
        states, _ = self._pipe.encode_prompt(caption, self._device, 1, do_classifier_free_guidance=False)
        return Embedding(states)

    def is_truncated(self, caption: str) -> bool:
        tokenizer = self._pipe.tokenizer or self._pipe.tokenizer_2
        return len(tokenizer(caption).input_ids) > tokenizer.model_max_length

    @torch.inference_mode()
    def sample(self, embeddings: Sequence[Embedding], seeds: Sequence[int], on_step: OnStep | None) -> Tensor:
        generators = [make_generator(seed) for seed in seeds]
        states = torch.cat([embedding.states for embedding in embeddings])
        noise = draw_noise(generators, self._shape).to(self._device, states.dtype)
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
        if self._is_xl and vae.config.latents_mean is not None and vae.config.latents_std is not None:
            mean, std = (
                torch.tensor(values, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1)
                for values in (vae.config.latents_mean, vae.config.latents_std)
            )
            latents = latents * std + mean
        return (vae.decode(latents, return_dict=False)[0].float() / 2 + 0.5).clamp(0, 1)

    @torch.inference_mode()
    def _embed_empty(self) -> Embedding:
        """The unconditional side of guidance, as the pipeline itself makes it (zeros in some XL models)."""
        if self._is_xl:
            _, states, _, pooled = self._pipe.encode_prompt(prompt="", device=self._device)
            return Embedding(states, pooled)
        _, states = self._pipe.encode_prompt("", self._device, 1, do_classifier_free_guidance=True)
        return Embedding(states)

    def _prompts(self, embeddings: Sequence[Embedding], states: Tensor) -> dict[str, Tensor]:
        prompts = {"prompt_embeds": states, "negative_prompt_embeds": self._empty.states.expand_as(states)}
        if self._empty.pooled is not None:
            pooled = torch.cat([embedding.pooled for embedding in embeddings if embedding.pooled is not None])
            prompts["pooled_prompt_embeds"] = pooled
            prompts["negative_pooled_prompt_embeds"] = self._empty.pooled.expand_as(pooled)
        return prompts
