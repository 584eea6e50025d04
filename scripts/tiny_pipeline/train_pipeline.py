"""Trains a tiny Stable Diffusion pipeline from any captioned images and saves it as a diffusers folder.

The pipeline that is shipped (about 45 minutes on one thread):

    python scripts/tiny_pipeline/photographs.py
    python scripts/tiny_pipeline/captions.py --shards .cache/tiny_pipeline/photographs
    python scripts/tiny_pipeline/train_pipeline.py .cache/tiny_pipeline/photographs \\
        --out stablerep/assets/fashion_pipeline --drop-words stablerep/assets/fashion_nouns.json

Your own images, a folder of WebDataset tars or one with `metadata.jsonl` ("file_name", "text"):

    python scripts/tiny_pipeline/train_pipeline.py my-images --out my-pipeline --size 64

Ctrl-C writes a checkpoint into --work; the same command goes on from there.
"""

import argparse
import json
from pathlib import Path

import torch
from autoencoder import encode, train_autoencoder, whiten
from captioned_images import load_captioned_images
from diffusers import StableDiffusionPipeline
from diffusion import CaptionDropping, make_scheduler, make_tokenizer, train_diffusion


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of *.tar, or with metadata.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="the pipeline's folder")
    parser.add_argument("--work", type=Path, default=Path(".cache/tiny_pipeline"), help="checkpoints")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels, a multiple of 8")
    parser.add_argument("--vae-channels", type=int, nargs=3, default=(16, 32, 64))
    parser.add_argument("--vae-steps", type=int, default=12500)
    parser.add_argument("--unet-channels", type=int, nargs=2, default=(64, 104))
    parser.add_argument("--unet-steps", type=int, default=7000)
    parser.add_argument("--drop-words", type=Path, help="JSON list of words that captions lose at times")
    parser.add_argument("--drop-words-share", type=float, default=0.15, help="how often (default 0.15)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-bfloat16", action="store_true", help="train in float32 throughout")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    save(train_pipeline(arguments), arguments.out)
    print(f"saved in {arguments.out}")


def save(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Writes the folder: weights in float16, to be loaded as float32 by whoever asks for no precision.

    Without a precision asked for, diffusers loads its own parts as float32, but transformers takes what the
    text encoder's configuration says: left at float16, the parts would not fit each other.
    """
    pipeline.save_pretrained(folder, safe_serialization=True)
    path = folder / "text_encoder" / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"dtype": "float32"}, indent=2) + "\n",
        encoding="utf-8",
    )


def train_pipeline(arguments: argparse.Namespace) -> StableDiffusionPipeline:
    """All stages; the result is in float16."""
    if arguments.size % 8:
        raise SystemExit(f"--size {arguments.size} is not a multiple of 8")
    data = load_captioned_images(arguments.images, arguments.size)
    print(f"{len(data.captions)} images, {len(set(data.captions))} distinct captions", flush=True)
    images = torch.from_numpy(data.images)
    shared = {"seed": arguments.seed, "bfloat16": not arguments.no_bfloat16}
    vae = train_autoencoder(
        images,
        channels=tuple(arguments.vae_channels),
        steps=arguments.vae_steps,
        batch=16,
        peak_rate=1.2e-3,
        checkpoint=arguments.work / "autoencoder.pt",
        **shared,
    )
    whiten(vae, images)
    tokenizer = make_tokenizer(data.captions)
    words = (
        frozenset(json.loads(arguments.drop_words.read_text(encoding="utf-8")))
        if arguments.drop_words
        else frozenset()
    )
    text_encoder, unet = train_diffusion(
        encode(vae, images),
        data.captions,
        tokenizer,
        CaptionDropping(whole=0.1, words=words, words_share=arguments.drop_words_share),
        channels=tuple(arguments.unet_channels),
        steps=arguments.unet_steps,
        batch=32,
        peak_rate=8e-4,
        checkpoint=arguments.work / "diffusion.pt",
        **shared,
    )
    return StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text_encoder.half(),
        tokenizer=tokenizer,
        unet=unet.half(),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


if __name__ == "__main__":
    main()
