"""Tiny text-to-image pipelines with random weights, saved as diffusers folders, for tests of generation."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

IMAGE_SIZE = 32
TEXT_WIDTH = 32
TEXT_POSITIONS = 16
WORDS = ("a", "photo", "of", "the", "red", "grey", "dark", "light", "shoe", "boot", "shirt", "dress", "bag")
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def make_random_pipeline(folder: Path, *, seed: int = 0, channels: tuple[int, int] = (32, 64)) -> Path:
    """A StableDiffusionPipeline folder: 32 px images, 8x8x4 latents, DDIM with v-prediction."""
    torch.manual_seed(seed)
    pipeline = StableDiffusionPipeline(
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_text_config()).eval(),
        tokenizer=_tokenizer(),
        unet=_unet(channels),
        scheduler=DDIMScheduler(
            **BETAS,
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            clip_sample=False,
            set_alpha_to_one=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def make_random_xl_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """A StableDiffusionXLPipeline folder: two text encoders, the second pooled."""
    torch.manual_seed(seed)
    pipeline = StableDiffusionXLPipeline(
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_text_config()).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_text_config()).eval(),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=_unet(
            (32, 64),
            cross_attention_dim=2 * TEXT_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
        ),
        scheduler=DDIMScheduler(**BETAS, clip_sample=False),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def make_random_consistency_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """A LatentConsistencyModelPipeline folder: another class, whose sampler draws noise at every step."""
    torch.manual_seed(seed)
    pipeline = LatentConsistencyModelPipeline(
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_text_config()).eval(),
        tokenizer=_tokenizer(),
        unet=_unet((32, 64), time_cond_proj_dim=16),
        scheduler=LCMScheduler(**BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def make_failing_pipeline(folder: Path) -> Path:
    """As `make_random_consistency_pipeline`, but a batch with the word "bag" in a caption raises IndexError.

    Its tokenizer knows one token more than its text encoder, and it is told prompts, not embeddings.
    """
    make_random_consistency_pipeline(folder)
    config = _text_config()
    config.vocab_size -= 1  # the last token is that of the last of WORDS
    CLIPTextModel(config).eval().save_pretrained(folder / "text_encoder", safe_serialization=True)
    return folder


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=IMAGE_SIZE,
        scaling_factor=1.0,
    ).eval()


def _unet(channels: tuple[int, int], **config: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 4,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=16,
        **{"cross_attention_dim": TEXT_WIDTH, **config},
    ).eval()


def _text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=_tokenizer().vocab_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TEXT_POSITIONS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def _tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding over letters, with merges that make each of WORDS one token."""
    vocabulary = ["<|startoftext|>", "<|endoftext|>"]
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    vocabulary += letters + [letter + "</w>" for letter in letters]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair, joined = (parts[0], parts[1]), parts[0] + parts[1]
            if pair not in merges:
                merges.append(pair)
            if joined not in vocabulary:
                vocabulary.append(joined)
            parts[:2] = [joined]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=merges,
        model_max_length=TEXT_POSITIONS,
    )
