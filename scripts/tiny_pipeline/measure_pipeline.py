"""Measures a pipeline of product images against real photographs, and draws both side by side.

    python scripts/tiny_pipeline/measure_pipeline.py stablerep/assets/fashion_pipeline \\
        --images .cache/tiny_pipeline/photographs --out measurements.json --sheet groups.png

- agreement: how often a classifier, trained on the pipeline's own 55,000 real photographs, sees the class
  that the caption names; its accuracy on the real test photographs is the figure to compare with;
- variety: root mean square difference of grey level (0 to 1) between two images of one caption;
- psnr: what the autoencoder alone loses on the real test photographs, in decibels;
- seconds_per_image: this process, its threads, no other work counted out.
"""

import argparse
import json
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from autoencoder import to_model_range
from captioned_images import CaptionedImages, load_captioned_images
from diffusers import StableDiffusionPipeline
from photographs import ASSETS, CLASS_NAMES
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional

BATCH = 64


def class_of(caption: str) -> int:
    """The number of the class that a caption names."""
    words = f" {caption} "
    return next(k for k, name in enumerate(CLASS_NAMES) if f" {name} " in words)


def grey(images: np.ndarray) -> np.ndarray:
    """RGB or grey uint8 images [n 32 32 (3)] -> their middle 28 x 28, float [n 28 28] from 0 to 1."""
    plain = images.mean(axis=-1) if images.ndim == 4 else images
    return plain[:, 2:30, 2:30].astype(np.float32) / 255


def train_classifier(images: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> nn.Module:
    """A small convolutional classifier of grey images [n 28 28]."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(24, 48, 3, padding=1),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(48, 96, 3, padding=1),
        nn.BatchNorm2d(96),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(96 * 9, len(CLASS_NAMES)),
    )
    pixels, targets = torch.from_numpy(images)[:, None], torch.from_numpy(labels).long()
    batches = epochs * (len(pixels) // 128)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=batches)
    for _ in range(batches):
        chosen = torch.randint(len(pixels), (128,))
        loss = functional.cross_entropy(model(pixels[chosen]), targets[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def agreement(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of the images that the classifier puts into their class."""
    pixels = torch.from_numpy(images)[:, None]
    guesses = torch.cat([model(part).argmax(1) for part in pixels.split(500)])
    return float((guesses.numpy() == labels).mean())


def generate(
    pipeline: StableDiffusionPipeline,
    captions: list[str],
    each: int,
    *,
    steps: int,
    guidance: float,
    seed: int,
) -> tuple[np.ndarray, float]:
    """uint8 [captions*each 32 32 3], images of a caption together, and the seconds an image took."""
    prompts = [caption for caption in captions for _ in range(each)]
    random, started, made = torch.Generator().manual_seed(seed), time.perf_counter(), []
    for start in range(0, len(prompts), BATCH):
        part = pipeline(
            prompts[start : start + BATCH],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=random,
            output_type="np",
        )
        made.append(np.asarray(part.images))
    seconds = (time.perf_counter() - started) / len(prompts)
    return (np.concatenate(made) * 255).round().astype(np.uint8), seconds


def variety(images: np.ndarray, each: int) -> float:
    """Mean RMS difference over the pairs inside each group of `each` consecutive grey images [n 28 28]."""
    groups = images.reshape(-1, each, *images.shape[1:])
    pairs = [groups[:, i] - groups[:, j] for i, j in combinations(range(each), 2)]
    return float(np.mean([np.sqrt((pair**2).mean(axis=(1, 2))) for pair in pairs]))


@torch.no_grad()
def psnr(pipeline: StableDiffusionPipeline, images: np.ndarray) -> float:
    """Mean peak signal-to-noise ratio of the autoencoder on uint8 images [n 28 28], in decibels."""
    padded = torch.from_numpy(np.pad(images, ((0, 0), (2, 2), (2, 2))))[..., None].expand(-1, -1, -1, 3)
    errors: list[Tensor] = []
    for part in padded.split(250):
        pixels = to_model_range(part)
        decoded = pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
        errors.append(((decoded - pixels) / 2).square().mean(dim=(1, 2, 3)))
    return float((-10 * torch.cat(errors).clamp_min(1e-8).log10()).mean())


def real_groups(data: CaptionedImages, captions: list[str], each: int) -> np.ndarray:
    """The first photographs of each caption, uint8 [captions*each 32 32 3]."""
    faces: dict[str, list[int]] = {caption: [] for caption in captions}
    for index, caption in enumerate(data.captions):
        if caption in faces and len(faces[caption]) < each:
            faces[caption].append(index)
    return data.images[[index for caption in captions for index in faces[caption]]]


def draw_sheet(captions: list[str], made: np.ndarray, real: np.ndarray, each: int, path: Path) -> None:
    """One row a caption: generated images at the left, real photographs of that caption at the right."""
    scale, left, gap = 64, 560, 24
    sheet = Image.new("RGB", (left + 2 * each * (scale + 2) + gap, len(captions) * (scale + 2)), (70, 70, 70))
    draw = ImageDraw.Draw(sheet)
    for row, caption in enumerate(captions):
        draw.text((6, row * (scale + 2) + scale // 2 - 6), caption, fill=(255, 255, 255), font_size=14)
        for column in range(2 * each):
            source = made if column < each else real
            tile = Image.fromarray(source[row * each + column % each]).resize((scale, scale))
            shift = left + column * (scale + 2) + (gap if column >= each else 0)
            sheet.paste(tile, (shift, row * (scale + 2)))
    sheet.save(path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument(
        "--images", type=Path, required=True, help="the captioned photographs it learned from"
    )
    parser.add_argument("--probe", type=Path, default=ASSETS / "fashion_photographs.npz")
    parser.add_argument("--captions", type=Path, default=ASSETS / "fashion_captions.txt")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--sheet", type=Path, help="a PNG to draw: generated groups beside real photographs")
    parser.add_argument("--count", type=int, default=250, help="captions, from the top of the list")
    parser.add_argument("--each", type=int, default=4, help="images a caption, at most 4")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, nargs="+", default=(1.0, 2.0, 4.0))
    parser.add_argument("--epochs", type=int, default=6, help="of the classifier")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    data = load_captioned_images(arguments.images, 32)
    test = np.load(arguments.probe)
    captions = arguments.captions.read_text(encoding="utf-8").splitlines()[: arguments.count]
    each, labels = arguments.each, np.repeat([class_of(caption) for caption in captions], arguments.each)
    pipeline = StableDiffusionPipeline.from_pretrained(arguments.pipeline, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    print("training the classifier", flush=True)
    own = np.array([class_of(caption) for caption in data.captions])
    classifier = train_classifier(grey(data.images), own, arguments.epochs, arguments.seed)
    test_images = test["test_images"].astype(np.float32) / 255
    real = real_groups(data, captions, each)
    report: dict[str, object] = {
        "captions": len(captions),
        "images_per_caption": each,
        "steps": arguments.steps,
        "threads": arguments.threads,
        "psnr_db": psnr(pipeline, test["test_images"]),
        "agreement_test_photographs": agreement(classifier, test_images, test["test_labels"]),
        "variety_photographs_of_one_caption": variety(grey(real), each),
    }
    for guidance in arguments.guidance:
        made, seconds = generate(
            pipeline, captions, each, steps=arguments.steps, guidance=guidance, seed=arguments.seed
        )
        report[f"guidance_{guidance:g}"] = {
            "agreement": agreement(classifier, grey(made), labels),
            "agreement_by_class": {
                name: agreement(classifier, grey(made)[labels == k], labels[labels == k])
                for k, name in enumerate(CLASS_NAMES)
                if (labels == k).any()
            },
            "variety": variety(grey(made), each),
            "seconds_per_image": seconds,
        }
        print(guidance, json.dumps(report[f"guidance_{guidance:g}"]), flush=True)
        if arguments.sheet and guidance == 2.0:
            draw_sheet(captions[:40], made, real, each, arguments.sheet)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
