"""Captions every photograph of the pipeline's 55,000 from its class and its pixels, and writes what follows.

    python scripts/tiny_pipeline/captions.py --shards .cache/tiny_pipeline/photographs

- `fashion_captions.txt`: the distinct captions that at least four photographs have, in a seeded order of
  which every beginning has the classes in equal parts as long as they last;
- `fashion_captions_no_noun.txt`: line by line the same captions without the noun of the class;
- `fashion_captions_8000.txt`: 8,000 captions: the same, then the rarer ones that photographs have, then such
  captions in another tone of grey, which no photograph has;
- `fashion_photograph_captions.txt`: line by line the captions of the probe's 5,000 training photographs;
- `fashion_nouns.json`: the words whose removal (and single spaces after it) turns one into the other;
- with `--shards`, WebDataset tars of all 55,000 photographs as 32x32 RGB PNG, for `train_pipeline.py`.
"""

import argparse
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import measures as measure
import numpy as np
from captioned_images import without_words
from measures import Outline, choose, outline
from photographs import (
    ASSETS,
    CLASS_NAMES,
    Photographs,
    find_source,
    pipeline_photographs,
    probe_photographs,
)
from PIL import Image

NOUN_WORDS = tuple(word for name in CLASS_NAMES for word in name.split())
LEAST_FACES = 4
ORDER_SEED = 0
MOST_CAPTIONS = 8000
PADDING = 2
SHARD_SIZE = 5000


def caption_of(image: np.ndarray, label: int) -> str:
    """The caption of a photograph, uint8 [28 28], of the class with that number."""
    shape = outline(image)
    noun = CLASS_NAMES[label]
    describe = {
        "trousers": _trousers,
        "sandal": _sandal,
        "sneaker": _sneaker,
        "ankle boot": _boot,
        "bag": _bag,
    }.get(noun, _garment)
    before, after = describe(shape, noun)
    parts = [measure.tone(shape), *before, noun]
    if any(after):
        parts += ["with", " and ".join(part for part in after if part)]
    return " ".join(part for part in parts if part)


def _texture(shape: Outline, limits: tuple[float, float]) -> str:
    return choose(measure.roughness(shape), limits, ("plain", "textured", "patterned"))


def _garment(shape: Outline, noun: str) -> tuple[list[str], list[str]]:
    surface = _texture(shape, (11, 24))
    if measure.stripes(shape) > 3:
        surface = "striped"
    elif noun != "coat" and measure.chest_motif(shape) > 20 and measure.roughness(shape) > 8:
        surface = "printed"
    sleeves = _sleeves(shape, noun)
    flare = ""
    if noun == "dress":
        limits = (10.0, 14.0)
        flare = choose(measure.hem_flare(shape), (5,), ("", "flared hem"))
    else:
        limits = (20.0, 21.6) if sleeves == "long sleeves" or noun == "coat" else (13.6, 15.1)
    cut = choose(measure.body_width(shape), limits, ("narrow", "", "wide"))
    neck = "low neck" if noun != "coat" and measure.neck_depth(shape) >= 2 else ""
    shade = ""
    if surface in ("plain", "textured"):
        if sleeves == "long sleeves" or noun == "coat":
            shade = choose(measure.sleeve_contrast(shape), (-30, 30), ("dark", "", "pale"))
            if shade:
                return [surface, cut], [f"{shade} {sleeves or 'sleeves'}", neck]
        shade = choose(measure.chest_contrast(shape), (-18, 18), ("dark chest", "", "pale chest"))
    if sleeves == "sleeveless":
        return [surface, cut, "sleeveless"], [flare, neck, shade]
    return [surface, cut], [sleeves, flare, neck, shade]


def _sleeves(shape: Outline, noun: str) -> str:
    body, shoulders = measure.body_width(shape), measure.shoulder_width(shape)
    if noun == "coat":
        return ""
    if noun == "dress":
        if shoulders - body >= 3 and measure.sleeve_drop(shape) < 3:
            return "short sleeves"
        if measure.sleeve_drop(shape) >= 3:
            return "long sleeves"
        return "sleeveless" if shoulders <= 10 else ""
    if shoulders - body >= 4:
        return "short sleeves"
    if body >= 18:
        return "long sleeves"
    return "sleeveless" if noun != "pullover" and shoulders - body <= 1 and body < 15.5 else ""


def _trousers(shape: Outline, _: str) -> tuple[list[str], list[str]]:
    height = shape.bottom - shape.top + 1
    width = shape.right - shape.left + 1
    cut = choose(measure.body_width(shape), (9, 10.6), ("slim", "", "wide"))
    length = "short" if height / width < 1.6 else ""
    legs = choose(measure.leg_gap(shape), (0.9, 2.1), ("closed legs", "", "open legs"))
    fade = choose(measure.half_contrast(shape), (-12, 12), ("dark thighs", "", "pale thighs"))
    return [_texture(shape, (8, 18)), cut, length], [legs, fade]


def _sandal(shape: Outline, _: str) -> tuple[list[str], list[str]]:
    straps = choose(measure.openness(shape), (0.24,), ("", "open"))
    back = choose(measure.ankle_height(shape), (9.5, 17.5), ("low back", "", "high back"))
    toe = choose(measure.toe_contrast(shape), (-25, 25), ("dark toe", "", "pale toe"))
    return [_texture(shape, (14, 32)), straps], [_heel(shape, (3, 7)), back, toe]


def _sneaker(shape: Outline, _: str) -> tuple[list[str], list[str]]:
    shaft = choose(measure.ankle_height(shape), (10.5, 13.5), ("low shaft", "", "high shaft"))
    toe = choose(measure.toe_contrast(shape), (-25, 25), ("dark toe", "", "pale toe"))
    return [_texture(shape, (17, 28))], [shaft, _sole(shape), toe]


def _boot(shape: Outline, _: str) -> tuple[list[str], list[str]]:
    shaft = choose(measure.ankle_height(shape), (18.5, 23.5), ("low shaft", "", "high shaft"))
    # Only dark soles: what measures as a pale one is mostly a heel seen under a darker arch.
    sole = "dark sole" if measure.sole_contrast(shape) < -12 else ""
    toe = choose(measure.toe_contrast(shape), (-15, 15), ("dark toe", "", "pale toe"))
    return [_texture(shape, (11, 18))], [_heel(shape, (2, 5)), shaft, sole, toe]


def _heel(shape: Outline, limits: tuple[float, float]) -> str:
    return choose(measure.arch_height(shape), limits, ("flat sole", "low heel", "high heel"))


def _sole(shape: Outline) -> str:
    return choose(measure.sole_contrast(shape), (-20, 20), ("dark sole", "", "pale sole"))


def _bag(shape: Outline, _: str) -> tuple[list[str], list[str]]:
    aspect = (shape.bottom - shape.top + 1) / (shape.right - shape.left + 1)
    form = choose(aspect, (0.66, 0.85, 1.2), ("long", "wide", "square", "tall"))
    handle = choose(measure.hole(shape), (16, 50), ("", "handle", "large handle"))
    shade = choose(measure.half_contrast(shape, 0.4), (-15, 15), ("dark top", "", "pale top"))
    return [_texture(shape, (9.5, 18)), form], [handle, shade]


def list_captions(captions: list[str], labels: np.ndarray, least_faces: int = LEAST_FACES) -> list[str]:
    """Distinct captions with so many photographs each or more: classes in turn, drawn without replacement.

    Inside a class the draw is seeded and prefers, by the square root, captions of many photographs: what
    is common in the photographs is common at the beginning of the list, and rare things are not absent.
    """
    random = np.random.default_rng(ORDER_SEED)
    faces = Counter(captions)
    by_class: list[list[str]] = [[] for _ in CLASS_NAMES]
    for caption, label in sorted(set(zip(captions, labels.tolist(), strict=True))):
        if faces[caption] >= least_faces:
            by_class[label].append(caption)
    ordered = []
    for part in by_class:
        # The smallest of exponential waiting times, rates sqrt(faces): a weighted draw, one at a time.
        waits = random.exponential(size=len(part)) / np.sqrt([faces[caption] for caption in part])
        ordered.append([part[i] for i in np.argsort(waits)])
    rounds = max(len(part) for part in ordered)
    return [part[turn] for turn in range(rounds) for part in ordered if turn < len(part)]


def lengthen(ordered: list[str], seen: list[str], count: int) -> list[str]:
    """`count` distinct captions: `ordered`, then the others of `seen`, then those in other tones, in turn."""
    random = np.random.default_rng(ORDER_SEED)
    longer = list(dict.fromkeys([*ordered, *seen]))
    bare = {_without_tone(caption) for caption in longer}
    others = sorted({f"{tone} {rest}" for rest in bare for tone in measure.TONES} - set(longer))
    longer += random.permutation(others).tolist()
    if len(longer) < count:
        raise ValueError(f"there are only {len(longer)} captions")
    return longer[:count]


def _without_tone(caption: str) -> str:
    longest_first = sorted(measure.TONES, key=len, reverse=True)
    return next(caption[len(word) + 1 :] for word in longest_first if caption.startswith(f"{word} "))


def write_lists(ordered: list[str], folder: Path) -> None:
    """Writes the two caption files and the noun words into the folder."""
    nouns = frozenset(NOUN_WORDS)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fashion_captions.txt").write_text("\n".join(ordered) + "\n", encoding="utf-8")
    bare = [without_words(caption, nouns) for caption in ordered]
    (folder / "fashion_captions_no_noun.txt").write_text("\n".join(bare) + "\n", encoding="utf-8")
    (folder / "fashion_nouns.json").write_text(json.dumps(sorted(nouns)) + "\n", encoding="utf-8")


def write_shards(photographs: Photographs, captions: list[str], folder: Path) -> None:
    """Writes WebDataset tars: `<number>.png` (32x32 RGB, two black pixels on each side) and `.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(captions), SHARD_SIZE):
        with tarfile.open(folder / f"{start // SHARD_SIZE:06d}.tar", "w") as tar:
            for number in range(start, min(start + SHARD_SIZE, len(captions))):
                padded = np.pad(photographs.images[number], PADDING)
                png = io.BytesIO()
                Image.fromarray(padded).convert("RGB").save(png, "PNG")
                for ending, data in (("png", png.getvalue()), ("txt", captions[number].encode())):
                    member = tarfile.TarInfo(f"{number:06d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--source", type=Path, help="folder with the four Fashion-MNIST idx.gz files")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="where the caption lists go")
    parser.add_argument("--shards", type=Path, help="folder for the tars of the 55,000 captioned photographs")
    arguments = parser.parse_args()
    photographs = pipeline_photographs(find_source(arguments.source))
    captions = [caption_of(i, int(k)) for i, k in zip(photographs.images, photographs.labels, strict=True)]
    ordered = list_captions(captions, photographs.labels)
    write_lists(ordered, arguments.assets)
    longer = lengthen(ordered, list_captions(captions, photographs.labels, 1), MOST_CAPTIONS)
    (arguments.assets / "fashion_captions_8000.txt").write_text("\n".join(longer) + "\n", encoding="utf-8")
    held_out = probe_photographs(find_source(arguments.source))
    of_them = [caption_of(i, int(k)) for i, k in zip(held_out.images, held_out.labels, strict=True)]
    names = arguments.assets / "fashion_photograph_captions.txt"
    names.write_text("\n".join(of_them) + "\n", encoding="utf-8")
    covered = sum(Counter(captions)[caption] for caption in ordered)
    print(f"{len(ordered)} captions with {LEAST_FACES}+ photographs; they cover {covered} of {len(captions)}")
    if arguments.shards:
        write_shards(photographs, captions, arguments.shards)


if __name__ == "__main__":
    main()
