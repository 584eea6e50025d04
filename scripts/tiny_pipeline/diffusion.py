"""Trains the text encoder and the UNet of a tiny pipeline together, by v-prediction on whitened latents."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from captioned_images import without_words
from diffusers import DDIMScheduler, UNet2DConditionModel
from loop import MovingAverage, Progress, learning_rate, load_checkpoint, save_checkpoint
from tokenizers import Tokenizer as BytePairs
from tokenizers import models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TEXT_WIDTH = 96
TEXT_POSITIONS = 24
CLIP_VOCABULARY = 49152
CHECKPOINT_EVERY = 500


@dataclass(frozen=True)
class CaptionDropping:
    """How often a caption is left out whole (for guidance), or loses the given words (for a control)."""

    whole: float
    words: frozenset[str]
    words_share: float


def make_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """Byte-pair encoding learned on the captions until every word of theirs is one token.

    Printable ASCII is in the alphabet, so words that no caption had are spelt from pieces.
    """
    learned = BytePairs(models.BPE(end_of_word_suffix="</w>"))
    learned.pre_tokenizer = pre_tokenizers.Whitespace()
    learned.train_from_iterator(
        (caption.lower() for caption in captions),
        trainers.BpeTrainer(
            vocab_size=CLIP_VOCABULARY, min_frequency=1, end_of_word_suffix="</w>", show_progress=False
        ),
    )
    merges = [tuple(pair) for pair in json.loads(learned.to_str())["model"]["merges"]]
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    alphabet = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    vocabulary = dict.fromkeys([*alphabet, *("".join(pair) for pair in merges)])
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=merges,
        model_max_length=TEXT_POSITIONS,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text model, 96 wide."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_POSITIONS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_unet(size: int, channels: tuple[int, int]) -> UNet2DConditionModel:
    """An untrained UNet for latents [n 4 size size]; the lower level attends to the text."""
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
    )


def make_scheduler() -> DDIMScheduler:
    """DDIM over 1,000 steps; v-prediction, because with so few pixels the last steps carry the outline."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=True,
        rescale_betas_zero_snr=True,
    )


def train_diffusion(
    latents: tuple[Tensor, Tensor],
    captions: list[str],
    tokenizer: CLIPTokenizer,
    dropping: CaptionDropping,
    *,
    channels: tuple[int, int],
    steps: int,
    batch: int,
    peak_rate: float,
    bfloat16: bool,
    seed: int,
    checkpoint: Path,
) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """Trains on latents (means and standard deviations, each [n 4 h w]); returns the averaged weights.

    Goes on from the checkpoint if there is one, drawing what an uninterrupted run would have drawn.
    """
    means, deviations = latents
    torch.manual_seed(seed)
    text_encoder, unet = make_text_encoder(tokenizer), make_unet(means.shape[-1], channels)
    both = nn.ModuleDict({"text_encoder": text_encoder, "unet": unet})
    optimiser = torch.optim.AdamW(both.parameters(), lr=peak_rate, weight_decay=0.01, fused=True)
    average, first = MovingAverage(both), 0
    if state := load_checkpoint(checkpoint):
        both.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        average.weights, first = state["average"], state["step"]
    signal, noise_share = _shares(make_scheduler())
    tokens = _token_table(captions, tokenizer, dropping.words)
    progress, step = Progress("diffusion", first, steps), first
    both.train()
    try:
        for step in range(first, steps):
            random = torch.Generator().manual_seed((seed << 32) + step)
            chosen = torch.randint(len(captions), (batch,), generator=random)
            clean = means[chosen] + deviations[chosen] * _normal(means[chosen].shape, random)
            noise = _normal(clean.shape, random)
            time = torch.randint(len(signal), (batch,), generator=random)
            a, s = signal[time, None, None, None], noise_share[time, None, None, None]
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, steps, peak_rate)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                states = text_encoder(
                    tokens[_caption_kind(batch, dropping, random), chosen]
                ).last_hidden_state
                predicted = unet(a * clean + s * noise, time, states).sample
            loss = (predicted.float() - (a * noise - s * clean)).square().mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            average.update(both, step)
            progress.add(step, float(loss.detach()))
            if (step + 1) % CHECKPOINT_EVERY == 0:
                _save(checkpoint, both, optimiser, average, step + 1)
    except KeyboardInterrupt:
        _save(checkpoint, both, optimiser, average, step)
        raise
    _save(checkpoint, both, optimiser, average, max(first, steps))
    average.copy_to(both)
    return text_encoder.eval(), unet.eval()


def _normal(shape: torch.Size, random: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=random)


def _shares(scheduler: DDIMScheduler) -> tuple[Tensor, Tensor]:
    """What part of a noised latent is signal and what noise, each [steps], as the sampler will see them."""
    kept = scheduler.alphas_cumprod.float()
    return kept.sqrt(), (1 - kept).sqrt()


def _token_table(captions: list[str], tokenizer: CLIPTokenizer, words: frozenset[str]) -> Tensor:
    """Token ids [3 n positions]: the captions, the captions without the words, nothing."""
    kinds = [captions, [without_words(caption, words) for caption in captions], [""] * len(captions)]
    encoded = [tokenizer(k, padding="max_length", truncation=True, return_tensors="pt") for k in kinds]
    return torch.stack([e.input_ids for e in encoded])


def _caption_kind(batch: int, dropping: CaptionDropping, random: torch.Generator) -> Tensor:
    """Which row of the token table each caption of a batch takes, [n]."""
    draw = torch.rand(batch, generator=random)
    kind = torch.zeros(batch, dtype=torch.long)
    kind[draw < dropping.whole + (dropping.words_share if dropping.words else 0.0)] = 1
    kind[draw < dropping.whole] = 2
    return kind


def _save(
    path: Path, both: nn.Module, optimiser: torch.optim.Optimizer, average: MovingAverage, step: int
) -> None:
    save_checkpoint(
        path,
        {
            "model": both.state_dict(),
            "optimiser": optimiser.state_dict(),
            "average": average.weights,
            "step": step,
        },
    )
