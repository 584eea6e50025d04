"""The verb `preview`: one group now, of a new caption, or a stored one made again and compared."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stablerep.cli.connection import Connection, connected_to_worker
from stablerep.cli.jobs import ChosenRecipe, Set, choose_recipe, split_overrides
from stablerep.cli.show import Json, print_json
from stablerep.errors import InvalidInput
from stablerep.progress import console

if TYPE_CHECKING:
    from stablerep.shards import Group


@connected_to_worker
def preview(
    caption: Annotated[str, typer.Argument(help="The caption.")] = "",
    preset: Annotated[str, typer.Option("--preset", help="Recipe preset or YAML file.")] = "sd15",
    overrides: Set = None,
    images: Annotated[int, typer.Option(min=1, max=99, help="Number of images.")] = 6,
    seed: Annotated[int, typer.Option(help="Decides the images.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder for the images and a page of them.")] = Path(
        "preview"
    ),
    worker: Annotated[str, typer.Option(help="HOST:PORT of a running worker; empty: this machine.")] = "",
    dataset: Annotated[
        str, typer.Option("--dataset", help="URL of a dataset of which one group is made again.")
    ] = "",
    caption_id: Annotated[int, typer.Option("--caption-id", min=0, help="Id of that group's caption.")] = 0,
    device: Annotated[str, typer.Option(help="cuda, cuda:0, mps or cpu; empty: the best there is.")] = "",
    as_json: Json = False,
    *,
    connection: Connection,
) -> None:
    """Generates one group of images now, before paying for a job; or makes a stored one again and compares.

    With --dataset, exit code 1 says that an image has other bytes than the stored one.

    Examples:

        stablerep preview "a black ankle boot" --preset tiny --images 6 --out preview

        stablerep preview "a red bicycle" --preset sd15 --worker 10.0.0.7:50052

        stablerep preview --dataset demo/store/datasets/demo --caption-id 17
    """
    if bool(caption) == bool(dataset):
        raise InvalidInput("give a caption, or --dataset with --caption-id", field="caption")
    if dataset:
        _remake(dataset, caption_id, device, out, as_json)
        return
    from stablerep.shards import Group

    make = partial(_preview_on, connection, worker) if worker else partial(_preview_here, device)
    more = {"images_per_caption": str(images)}
    if "batch_images" not in split_overrides(overrides):
        more["batch_images"] = str(images)  # one group, whatever the preset's batch holds
    encoded = make(caption, choose_recipe(preset, overrides, **more), seed)
    _write(out, caption, {"": Group(0, caption, tuple(encoded))})
    if as_json:
        print_json({"caption": caption, "images": len(encoded), "folder": out})
    console.print(f"{len(encoded)} images and index.html in {out}")


def _remake(url: str, caption_id: int, device: str, out: Path, as_json: bool) -> None:
    from stablerep.data.corpus.groups import open_dataset
    from stablerep.generation.remake import remake_group

    store, name = open_dataset(url)
    found = remake_group(store, name, caption_id, device=device, say=console.print)
    if error := found.made.info.get("error"):
        raise InvalidInput(f"caption {caption_id} could not be generated again: {error}", field="caption")
    _write(out, found.stored.caption, {"stored-": found.stored, "": found.made})
    if as_json:
        facts = {"caption_id": caption_id, "caption": found.stored.caption, "equal": list(found.equal)}
        print_json({**facts, "exception": found.exception, "folder": out})
    for index, equal in enumerate(found.equal):
        console.print(f"image {index}: {'equal' if equal else 'DIFFERENT bytes'}")
    if found.exception:
        console.print(f"bytes may differ: {found.exception}")
    console.print(f"caption {caption_id}, {found.stored.caption!r}: both groups and index.html in {out}")
    if not all(found.equal):
        raise typer.Exit(1)


def _write(out: Path, title: str, groups: dict[str, Group]) -> None:
    from stablerep.report.gallery import gallery_page

    out.mkdir(parents=True, exist_ok=True)
    for prefix, group in groups.items():
        for index, image in enumerate(group.encoded):
            (out / f"{prefix}{index:02d}.jpg").write_bytes(image)
    (out / "index.html").write_text(gallery_page(title, list(groups.values())), encoding="utf-8")


def _preview_on(
    connection: Connection, worker: str, caption: str, chosen: ChosenRecipe, seed: int
) -> list[bytes]:
    with connection.worker(worker) as client:
        return client.preview(caption, preset=chosen.preset, recipe=chosen.overrides, seed=seed)


def _preview_here(device: str, caption: str, chosen: ChosenRecipe, seed: int) -> list[bytes]:
    from stablerep.config.recipe import load_recipe
    from stablerep.generation import Generator

    generator = Generator(load_recipe(chosen.preset or "sd15", chosen.overrides), seed=seed, device=device)
    return [image for group in generator.generate([caption]) for image in group.encoded]
