"""Verbs around generation jobs: submit, jobs list|show|watch, preview, gallery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TaskID

from stablerep.cli.connection import Connection, connected
from stablerep.cli.show import Json, expected_times, job_page, print_json, skipped_lines, table
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
    as_json: Json = False,
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
    if as_json and not watch:
        print_json(job)
        return
    with connection.client() as client:
        console.print(f"{job.name}: {job.state.value}, dataset {job.dataset_url}")
        if watch:
            _watch(client, job.name, as_json)


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


def _watch(client: Client, name: str, as_json: bool = False) -> None:
    job = client.get_job(name)
    if as_json:
        for job in client.watch_job(name):
            print_json(job)
        _exit_unless_succeeded(job)
        return
    with Bars() as bars:
        task = bars.add(job.dataset, total=max(1, job.counts.shards), completed=job.counts.done)
        for job in client.watch_job(name):
            show_job(bars, task, job)
    console.print(one_line(job))
    for line in skipped_lines(job):
        console.print(line)
    _exit_unless_succeeded(job)


def _exit_unless_succeeded(job: Job) -> None:
    if job.state.value in ("FAILED", "CANCELLED"):
        raise typer.Exit(2)


def one_line(job: Job) -> str:
    """Name, state and counts of a job, and why it failed."""
    counts = job.counts
    text = f"{job.name}: {job.state.value}, {counts.done}/{counts.shards} shards, {counts.images:,} images"
    return text + (f", error: {job.error}" if job.error else "")


def _show_description(found: Description) -> None:
    for line in found.lines():
        console.print(f"  {line}")


@app.command("list")
@connected
def list_jobs(as_json: Json = False, *, connection: Connection) -> None:
    """Lists all jobs.

    Examples:

        stablerep jobs list

        stablerep jobs list --json | jq -r 'select(.state == "FAILED") | .name'
    """
    with connection.client() as client:
        found = list(client.list_jobs())
    if as_json:
        print_json(found)
        return
    shown = table(
        "job", "state", "shards done", "leased", "dead", "images", "priority", "jobs ahead", "expected"
    )
    for job in found:
        c = job.counts
        numbers = (c.leased, c.dead, c.images, job.priority, "" if job.done else job.jobs_ahead)
        done = f"{c.done}/{c.shards}"
        shown.add_row(job.name, job.state.value, done, *map(str, numbers), expected_times(job))
    console.print(shown if found else "no jobs yet; `stablerep submit CAPTIONS --name NAME` makes one")


@app.command()
@connected
def show(
    name: Annotated[str, typer.Argument(help="Name of the job.")],
    as_json: Json = False,
    *,
    connection: Connection,
) -> None:
    """Shows one job: state, progress, pace, what was skipped and why, where the data is, what to do next.

    Examples:

        stablerep jobs show shoes

        stablerep jobs show shoes --json
    """
    with connection.client() as client:
        job = client.get_job(name)
    if as_json:
        print_json(job)
        return
    for line in job_page(job):
        console.print(line)


@app.command()
@connected
def watch(
    name: Annotated[str, typer.Argument(help="Name of the job.")],
    as_json: Json = False,
    *,
    connection: Connection,
) -> None:
    """Follows a job until it ends; exit code 2 when it failed or was cancelled.

    Examples:

        stablerep jobs watch shoes

        stablerep jobs watch shoes --json
    """
    with connection.client() as client:
        _watch(client, name, as_json)


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
