"""Reads captioned images, from a folder of WebDataset tars or an image folder with `metadata.jsonl`."""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

IMAGE_ENDINGS = ("png", "jpg", "jpeg", "webp")


@dataclass(frozen=True)
class CaptionedImages:
    """Images, uint8 [n size size 3], and the caption of each."""

    images: np.ndarray
    captions: list[str]


def without_words(caption: str, words: frozenset[str]) -> str:
    """The caption with the given words left out and the spaces between the others single."""
    return " ".join(word for word in caption.split() if word not in words)


def load_captioned_images(folder: Path, size: int) -> CaptionedImages:
    """All images of the folder as RGB of size x size, in the order of its files.

    The folder holds either `*.tar` (WebDataset: `key.png` beside `key.txt`, or `key.json` with "caption"
    or "text") or `metadata.jsonl` (lines with "file_name" and "text"). ValueError if it holds no pair.
    """
    metadata = folder / "metadata.jsonl"
    pairs = _read_image_folder(metadata) if metadata.is_file() else _read_tars(folder)
    images, captions = [], []
    for data, caption in pairs:
        caption = " ".join(caption.split())
        if caption:
            images.append(_decode(data, size))
            captions.append(caption)
    if not images:
        raise ValueError(f"{folder} holds neither tars with images and captions nor a metadata.jsonl")
    return CaptionedImages(images=np.stack(images), captions=captions)


def _read_image_folder(metadata: Path) -> Iterator[tuple[bytes, str]]:
    with metadata.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                entry = json.loads(line)
                yield (metadata.parent / entry["file_name"]).read_bytes(), entry["text"]


def _read_tars(folder: Path) -> Iterator[tuple[bytes, str]]:
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            key, fields = "", dict[str, bytes]()
            for member in tar:
                file = tar.extractfile(member)
                if file is None:
                    continue
                # WebDataset's rule: a sample's key ends at the first dot of the base name, and the files
                # of one sample stand next to each other.
                head, _, base = member.name.rpartition("/")
                stem, _, ending = base.partition(".")
                if f"{head}/{stem}" != key:
                    yield from _sample(fields)
                    key, fields = f"{head}/{stem}", {}
                fields[ending.lower()] = file.read()
            yield from _sample(fields)


def _sample(fields: dict[str, bytes]) -> Iterator[tuple[bytes, str]]:
    image = next((fields[ending] for ending in IMAGE_ENDINGS if ending in fields), None)
    if image is None:
        return
    if "txt" in fields:
        yield image, fields["txt"].decode("utf-8")
    elif "json" in fields:
        entry = json.loads(fields["json"])
        if text := entry.get("caption") or entry.get("text"):
            yield image, text


def _decode(data: bytes, size: int) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        rgb = image.convert("RGB")
    if rgb.size != (size, size):
        scale = size / min(rgb.size)
        width, height = (max(size, round(side * scale)) for side in rgb.size)
        left, top = (width - size) // 2, (height - size) // 2
        rgb = rgb.resize((width, height), Image.Resampling.LANCZOS)
        rgb = rgb.crop((left, top, left + size, top + size))
    return np.asarray(rgb)
