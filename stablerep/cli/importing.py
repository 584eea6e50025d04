"""The verb `import`: images of one's own become a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stablerep.cli.show import Json, print_json
from stablerep.progress import Bars, console

if TYPE_CHECKING:
    from stablerep.importing.write import Imported

_NAMED = 5


def import_(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER|TAR|torchvision:NAME|builtin:fashion...",
            help="Folders (with metadata.jsonl, or of class folders), img2dataset's tars, a torchvision set, "
            "or 5,000 photographs that are shipped.",
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the dataset.")],
    store: Annotated[
        str,
        typer.Option("--store", help="Folder or s3:// URL to write to; default: store_url of the settings."),
    ] = "",
    size: Annotated[
        int, typer.Option(min=0, help="Pixels that a longer shorter side is shrunk to; 0: kept as it is.")
    ] = 512,
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality of what is stored anew.")] = 95,
    group: Annotated[
        int, typer.Option(min=1, max=99, help="Most images with one caption that are kept as one group.")
    ] = 10,
    root: Annotated[Path | None, typer.Option("--root", help="Folder of a torchvision set.")] = None,
    as_json: Json = False,
) -> None:
    """Makes a dataset of images of your own; `stablerep train` needs nothing else.

    A class folder's name, or the text in metadata.jsonl or in the tar, is an image's caption; images with one
    caption are a group. Interrupted, the same command goes on.

    Examples:

        stablerep import photographs --name mine

        stablerep import 'cc3m/{00000..00331}.tar' --name cc3m --store s3://bucket

        stablerep import torchvision:CIFAR10 --root data --name cifar

        stablerep import builtin:fashion --name photographs --store demo/store
    """
    from stablerep.config.settings import load_settings
    from stablerep.importing.sources import find_images
    from stablerep.importing.write import Preparation, import_images
    from stablerep.storage import open_store

    images = find_images(sources, root)
    settings = load_settings()
    opened = open_store(store or settings.store_url, s3=settings.s3)
    with Bars() as bars:
        bar = bars.add(name, len(images))
        result = import_images(
            opened,
            name,
            images,
            Preparation(size, quality),
            images_per_group=group,
            progress=lambda done: bars.update(bar, done, "images"),
        )
    url = opened.url.rstrip("/")
    if as_json:
        print_json({"dataset": f"{url}/datasets/{name}", **vars(result)})
    for problem in result.skipped[:_NAMED]:
        console.print(f"skipped: {problem}")
    if len(result.skipped) > _NAMED:
        console.print(f"skipped: {len(result.skipped) - _NAMED:,} more")
    console.print(
        f"{url}/datasets/{name}: {result.images:,} images in {result.groups:,} groups of "
        f"{result.captions:,} captions; {len(result.skipped):,} skipped\n"
        f"train on it: stablerep train --dataset {url}/datasets/{name} --run {url}/runs/first"
        f"{_advice(result)}"
    )


def _advice(result: Imported) -> str:
    """Settings over the preset `demo` that fit what was imported.

    Single images have no positives but their own views; a batch holds no more captions than there are.
    """
    from stablerep.runs.config import load_train_config

    where = {"run": "x/runs/x", "datasets": ["x/datasets/x"]}
    method = {"method": "simclr"} if result.smallest_group < 2 else {}
    config = load_train_config("demo", where | method)
    needs = config.method.needs()
    images = min(needs.images, max(1, result.smallest_group))
    captions = min(
        config.views_per_batch // (needs.crops * images), result.images if method else result.groups
    )
    changes = ["method=simclr"] if method else []
    if images != needs.images:
        changes.append(f"method.images_per_caption={images}")
    if captions * needs.crops * images != config.views_per_batch:
        changes.append(f"views_per_batch={captions * needs.crops * images}")
    return "".join(f" --set {change}" for change in changes)
