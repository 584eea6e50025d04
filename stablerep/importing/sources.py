"""Where images of one's own lie, and which caption each has: folders, tars, data sets of torchvision.

FOLDER with metadata.jsonl or .csv   file_name and text (or caption), as the Hugging Face hub lays out
FOLDER of folders                    the folder that an image lies in is its caption: a class
FOLDER of images                     no caption is known: each image is called by its name
TAR, also {00000..00099}.tar         samples of WebDataset, as img2dataset writes: key.jpg and key.txt, or a
                                     caption in key.json
torchvision:NAME                     a data set of torchvision in the folder `root`; classes are captions
builtin:fashion                      the 5,000 training photographs that this package ships, with captions
"""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stablerep.captions.patterns import expand
from stablerep.data.files import IMAGE_ENDINGS
from stablerep.errors import InvalidInput

TORCHVISION = "torchvision:"
BUILTIN = "builtin:fashion"
_METADATA = ("metadata.jsonl", "metadata.csv")
_TEXTS = ("text", "caption")


@dataclass(frozen=True)
class OwnImage:
    """An image that is still to be read: `read` gives its file's bytes; `label` is its class, if any."""

    name: str
    caption: str
    read: Callable[[], bytes]
    label: str | None = None


def find_images(sources: Sequence[str], root: Path | None = None) -> list[OwnImage]:
    """All images of the sources, in a fixed order. Raises InvalidInput naming what is wrong."""
    found: list[OwnImage] = []
    for source in (one for given in sources for one in expand(given)):
        if source == BUILTIN:
            found += _shipped_photographs()
        elif source.startswith(TORCHVISION):
            found += _of_torchvision(source.removeprefix(TORCHVISION), root)
        elif Path(source).is_dir():
            found += _of_folder(Path(source))
        elif source.endswith(".tar"):
            found += _of_tar(Path(source))
        else:
            raise InvalidInput(
                f"{source!r} is neither a folder, nor a .tar, nor torchvision:NAME, nor {BUILTIN}",
                field="sources",
            )
    if not found:
        raise InvalidInput(
            f"no image in {', '.join(sources)}; looked for {', '.join(sorted(IMAGE_ENDINGS))}",
            field="sources",
        )
    return found


def _of_folder(folder: Path) -> list[OwnImage]:
    for name in _METADATA:
        if (folder / name).is_file():
            return list(_of_metadata(folder, folder / name))
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS and p.is_file())
    images = []
    for file in files:
        within = file.relative_to(folder)
        label = within.parts[-2] if len(within.parts) > 1 else None
        caption = within.as_posix() if label is None else " ".join(label.replace("_", " ").split())
        images.append(OwnImage(str(within), caption, file.read_bytes, label))
    return images


def _of_metadata(folder: Path, metadata: Path) -> Iterator[OwnImage]:
    for number, record in enumerate(_records(metadata), start=1):
        name = record.get("file_name")
        text = next((record[key] for key in _TEXTS if isinstance(record.get(key), str)), None)
        if not isinstance(name, str) or text is None:
            raise InvalidInput(
                f"{metadata}, record {number}: want file_name and text (or caption), found "
                f"{', '.join(map(str, record)) or 'nothing'}",
                field="sources",
            )
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise InvalidInput(
                f"{metadata}, record {number}: {name!r} leads out of the folder", field="sources"
            )
        yield OwnImage(name, text, file.read_bytes)


def _records(metadata: Path) -> Iterator[dict[str, Any]]:
    text = metadata.read_text(encoding="utf-8-sig")
    if metadata.suffix == ".csv":
        yield from csv.DictReader(io.StringIO(text))
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InvalidInput(f"{metadata}, line {number} is not JSON: {error}", field="sources") from None
        if not isinstance(record, dict):
            raise InvalidInput(f"{metadata}, line {number} is no JSON object", field="sources")
        yield record


def _of_tar(tar: Path) -> list[OwnImage]:
    """Samples are named up to the first dot of the file's name, as WebDataset does."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(tar) as opened:
            for member in opened:
                if member.isfile():
                    folder, _, name = member.name.rpartition("/")
                    stem, _, ending = name.partition(".")
                    sample = samples.setdefault(f"{folder}/{stem}" if folder else stem, {})
                    sample[ending.lower()] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise InvalidInput(f"{tar} is no tar: {error}", field="sources") from None
    except OSError as error:
        raise InvalidInput(f"cannot read {tar}: {error.strerror or error}", field="sources") from None
    return [image for key, fields in samples.items() for image in _of_sample(tar, key, fields)]


def _of_sample(tar: Path, key: str, fields: dict[str, tuple[int, int]]) -> Iterator[OwnImage]:
    images = [ending for ending in fields if f".{ending.rpartition('.')[2]}" in IMAGE_ENDINGS]
    if not images:
        return
    caption = _caption_of_sample(tar, fields)
    for ending in images:
        name = f"{tar.name}:{key}.{ending}"
        yield OwnImage(name, name if caption is None else caption, partial(_read, tar, *fields[ending]))


def _caption_of_sample(tar: Path, fields: dict[str, tuple[int, int]]) -> str | None:
    if "txt" in fields:
        return _read(tar, *fields["txt"]).decode("utf-8", "replace").strip()
    if "json" not in fields:
        return None
    try:
        content = json.loads(_read(tar, *fields["json"]))
    except ValueError:
        return None
    texts = (content.get(key) for key in ("caption", "text")) if isinstance(content, dict) else ()
    return next((text for text in texts if isinstance(text, str)), None)


def _read(file: Path, offset: int, length: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(offset)
        return opened.read(length)


def _shipped_photographs() -> list[OwnImage]:
    """With the margin that encoders see them in, which is the shipped pipeline's, too."""
    from importlib.resources import files

    from stablerep.evaluation.datasets.photographs import load_photographs

    photographs = load_photographs("fashion").framed()
    text = (files("stablerep") / "assets" / "fashion_photograph_captions.txt").read_text(encoding="utf-8")
    return [
        OwnImage(f"fashion/{number}", caption, partial(_png, image), photographs.class_names[label])
        for number, (caption, image, label) in enumerate(
            zip(text.splitlines(), photographs.train_images[:], photographs.train_labels, strict=True)
        )
    ]


def _png(pixels: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _of_torchvision(name: str, root: Path | None) -> list[OwnImage]:
    import torchvision

    kind = getattr(torchvision.datasets, name, None)
    if kind is None or not isinstance(kind, type):
        raise InvalidInput(f"torchvision has no data set {name!r}", field="sources")
    if root is None:
        raise InvalidInput(f"--root names the folder that holds {name}", field="root")
    dataset = _open_torchvision(kind, name, root)
    classes = getattr(dataset, "classes", None)
    return [
        OwnImage(
            f"{name}/{number}",
            str(classes[label]).replace("_", " ") if classes is not None else str(label),
            partial(_encoded, dataset, number),
            str(classes[label]) if classes is not None else str(label),
        )
        for number, label in enumerate(_labels(dataset))
    ]


def _open_torchvision(kind: Any, name: str, root: Path) -> Any:
    problems = []
    for arguments in ({"train": True}, {"split": "train"}, {}):
        try:
            return kind(str(root), download=False, **arguments)
        except TypeError:
            continue
        except (RuntimeError, FileNotFoundError, ValueError) as error:
            problems.append(str(error))
    message = problems[0].splitlines()[0] if problems else "it takes arguments that are not known here"
    raise InvalidInput(f"{name} cannot be opened in {root}: {message}", field="root")


def _labels(dataset: Any) -> Iterable[int]:
    for attribute in ("targets", "labels", "_labels"):
        labels = getattr(dataset, attribute, None)
        if labels is not None:
            return [int(label) for label in labels]
    return [int(dataset[number][1]) for number in range(len(dataset))]


def _encoded(dataset: Any, number: int) -> bytes:
    buffer = io.BytesIO()
    dataset[number][0].convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
