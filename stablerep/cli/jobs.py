"""Verbs around generation jobs: submit, jobs list|show|watch, preview, gallery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TaskID
from rich.table import Table

from stablerep.captions.caption import CaptionReport
from stablerep.cli.connection import Connection, connected, connected_to_worker
from stablerep.client.progress import show_job
from stablerep.errors import InvalidInput
from stablerep.progress import Bars, console

if TYPE_CHECKING:
    from stablerep.captions import Description
    from stablerep.client import Client, Job

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override of a recipe field; may be repeated."),
]

Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="Whether the first row of CSV or TSV is a header; default: by its cells.",
        show_default=False,
    ),
]

app = typer.Typer(no_args_is_help=True, help="List, watch, steer and delete generation jobs.")


def split_overrides(pairs: Sequence[str] | None) -> dict[str, str]:
    """`["steps=20"]` -> `{"steps": "20"}`. Raises InvalidInput when a pair has no `=`."""
    overrides = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InvalidInput(f"{pair!r} is not KEY=VALUE", field="--set")
        overrides[key.strip()] = value.strip()
    return overrides


@connected
def submit(
    captions: Annotated[
        str,
        typer.Argument(
            help="Caption file (text, CSV/TSV, JSONL, RedCaps, Parquet, WebDataset; .gz/.zst), many of them "
            "('DIR/{00000..00099}.tar', 'DIR/*.csv'), - (standard input), store:KEY, or a URL that the "
            "gateway may read."
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the dataset to make.")],
    preset: Annotated[
        str, typer.Option("--preset", help="Recipe preset or YAML file on this machine.")
    ] = "sd15",
    overrides: Set = None,
    seed: Annotated[int, typer.Option(help="Decides every image together with its caption and index.")] = 0,
    format: Annotated[
        str,
        typer.Option(
            help="text, csv, tsv, jsonl, redcaps, parquet or webdataset; default: by the file name."
        ),
    ] = "",
    column: Annotated[
        str,
        typer.Option(help="Name or number (from 0) of the captions' column; default: a usual name."),
    ] = "",
    header: Header = None,
    limit: Annotated[int, typer.Option(help="Maximum number of captions; 0: all.")] = 0,
    upload: Annotated[
        bool,
        typer.Option("--upload", help="Read a URL on this machine and upload it; else the gateway reads it."),
    ] = False,
    captions_per_shard: Annotated[int, typer.Option(help="Captions in one shard; 0: the preset's.")] = 0,
    priority: Annotated[int, typer.Option(min=0, max=9, help="Higher is served first.")] = 0,
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay and show progress until the job ends.")
    ] = False,
    *,
    connection: Connection,
) -> None:
    """Submits a job: captions x recipe -> dataset.

    Examples:

        stablerep submit captions.txt --name shoes --preset tiny --watch

        stablerep submit cc12m.tsv.gz --name cc12m --preset sd15 --set guidance_scale=2.5

        stablerep submit "parts/part-{00000..00127}.parquet" --name laion --column TEXT

        zcat captions.txt.gz | stablerep submit - --format text --name piped
    """
    chosen = choose_recipe(preset, overrides)
    with connection.client() as client, Bars() as bars:
        job = client.create_job(
            name,
            captions,
            preset=chosen.preset,
            recipe=chosen.overrides,
            format=format,
            column=column,
            header=header,
            progress=_upload_bar(bars),
            on_captions=_show_description,
            seed=seed,
            limit=limit,
            upload=upload,
            captions_per_shard=captions_per_shard or chosen.captions_per_shard,
            priority=priority,
        )
    with connection.client() as client:
        console.print(f"{job.name}: {job.state.value}, dataset {job.dataset_url}")
        if watch:
            _watch(client, job.name)


@dataclass(frozen=True)
class ChosenRecipe:
    """What --preset and --set say, in the words of the API."""

    preset: str
    overrides: dict[str, str]
    captions_per_shard: int = 0


def choose_recipe(preset: str, pairs: Sequence[str] | None, **more: str) -> ChosenRecipe:
    """A preset's name with overrides; a recipe file of this machine is read here and sent whole."""
    from stablerep.config.recipe import load

    overrides = {**split_overrides(pairs), **more}
    if not preset.endswith((".yaml", ".yml")):
        return ChosenRecipe(preset, overrides)
    loaded = load(preset, overrides)
    whole = {key: str(value) for key, value in loaded.recipe.model_dump().items()}
    return ChosenRecipe("", whole, loaded.captions_per_shard)


def _upload_bar(bars: Bars) -> Callable[[int, int], None]:
    """Shows an upload from its first report on, in MiB."""
    tasks: list[TaskID] = []

    def report(sent: int, total: int) -> None:
        if not tasks:
            tasks.append(bars.add("upload, MiB", max(1, total >> 20)))
        bars.update(tasks[0], sent >> 20 if sent < total else max(1, total >> 20))

    return report


def _watch(client: Client, name: str) -> None:
    job = client.get_job(name)
    with Bars() as bars:
        task = bars.add(job.dataset, total=max(1, job.counts.shards), completed=job.counts.done)
        for job in client.watch_job(name):
            show_job(bars, task, job)
    console.print(one_line(job))
    for line in skipped_lines(job):
        console.print(line)
    if job.state.value in ("FAILED", "CANCELLED"):
        raise typer.Exit(2)


def one_line(job: Job) -> str:
    """Name, state and counts of a job, and why it failed."""
    counts = job.counts
    text = f"{job.name}: {job.state.value}, {counts.done}/{counts.shards} shards, {counts.images:,} images"
    return text + (f", error: {job.error}" if job.error else "")


def skipped_lines(job: Job) -> list[str]:
    """What became of the records that gave no caption, and of captions that could not be generated."""
    report = CaptionReport(**job.caption_report)
    lines = [f"  captions: {report}"] if report.lines > report.captions else []
    if job.counts.skipped:
        lines.append(f"  {job.counts.skipped:,} captions could not be generated; each shard's JSON says why")
    return lines


def _show_description(found: Description) -> None:
    for line in found.lines():
        console.print(f"  {line}")


@app.command("list")
@connected
def list_jobs(connection: Connection) -> None:
    """Lists all jobs.

    Example: stablerep jobs list
    """
    table = Table("job", "state", "shards done", "leased", "dead", "images", box=None, pad_edge=False)
    with connection.client() as client:
        for job in client.list_jobs():
            c = job.counts
            done = f"{c.done}/{c.shards}"
            table.add_row(job.name, job.state.value, done, str(c.leased), str(c.dead), str(c.images))
    console.print(
        table if table.row_count else "no jobs yet; `stablerep submit CAPTIONS --name NAME` makes one"
    )


@app.command()
@connected
def show(name: Annotated[str, typer.Argument(help="Name of the job.")], connection: Connection) -> None:
    """Shows all of one job.

    Example: stablerep jobs show shoes
    """
    with connection.client() as client:
        job = client.get_job(name)
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in asdict(job).items():
        table.add_row(key, str(value))
    console.print(table)


@app.command()
@connected
def watch(name: Annotated[str, typer.Argument(help="Name of the job.")], connection: Connection) -> None:
    """Follows a job until it ends; exit code 2 when it failed or was cancelled.

    Example: stablerep jobs watch shoes
    """
    with connection.client() as client:
        _watch(client, name)


@connected_to_worker
def preview(
    caption: Annotated[str, typer.Argument(help="The caption.")],
    preset: Annotated[str, typer.Option("--preset", help="Recipe preset or YAML file.")] = "sd15",
    overrides: Set = None,
    images: Annotated[int, typer.Option(min=1, max=99, help="Images to make.")] = 6,
    seed: Annotated[int, typer.Option(help="Decides the images.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder for the images and a page of them.")] = Path(
        "preview"
    ),
    worker: Annotated[str, typer.Option(help="HOST:PORT of a running worker; empty: make them here.")] = "",
    *,
    connection: Connection,
) -> None:
    """Makes one group now, to look at before paying for a job.

    Examples:

        stablerep preview "a black ankle boot" --preset tiny --images 6 --out preview

        stablerep preview "a red bicycle" --preset sd15 --worker 10.0.0.7:50052
    """
    from stablerep.report.gallery import gallery_page
    from stablerep.shards import Group

    make = partial(_preview_on, connection, worker) if worker else _preview_here
    encoded = make(caption, choose_recipe(preset, overrides, images_per_caption=str(images)), seed)
    out.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(encoded):
        (out / f"{index:02d}.jpg").write_bytes(image)
    page = gallery_page(caption, [Group(caption_id=0, caption=caption, encoded=tuple(encoded), info={})])
    (out / "index.html").write_text(page, encoding="utf-8")
    console.print(f"{len(encoded)} images and index.html in {out}")


def _preview_on(
    connection: Connection, worker: str, caption: str, chosen: ChosenRecipe, seed: int
) -> list[bytes]:
    with connection.worker(worker) as client:
        return client.preview(caption, preset=chosen.preset, recipe=chosen.overrides, seed=seed)


def _preview_here(caption: str, chosen: ChosenRecipe, seed: int) -> list[bytes]:
    from stablerep.config.recipe import load_recipe
    from stablerep.generation import Generator

    generator = Generator(load_recipe(chosen.preset or "sd15", chosen.overrides), seed=seed)
    return [image for group in generator.generate([caption]) for image in group.encoded]


def gallery(
    dataset: Annotated[str, typer.Argument(help="URL of a dataset, e.g. file:///data/datasets/shoes.")],
    out: Annotated[Path, typer.Option("--out", help="The HTML file to write.")] = Path("gallery.html"),
    groups: Annotated[int, typer.Option(min=1, max=2000, help="How many groups, evenly spread.")] = 60,
) -> None:
    """Writes one self-contained page with groups of a dataset.

    Example: stablerep gallery demo/store/datasets/demo --out gallery.html
    """
    from stablerep.data import GroupDataset
    from stablerep.report.gallery import gallery_page

    found = GroupDataset(dataset)
    stride = max(1, len(found) // groups)
    chosen = [found[i] for i in islice(range(0, len(found), stride), groups)]
    note = f"{len(chosen)} of {len(found)} groups of {dataset}"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(gallery_page(dataset.rstrip("/").rsplit("/", 1)[-1], chosen, note), encoding="utf-8")
    console.print(f"{note} in {out}")
