"""Verbs that steer a job: jobs pause|resume|cancel|retry|delete; jobs shards lists its shards and errors."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from stablerep.cli.connection import Connection, connected
from stablerep.cli.jobs import app, one_line
from stablerep.cli.show import Json, print_json, table
from stablerep.errors import InvalidInput
from stablerep.progress import console

if TYPE_CHECKING:
    from stablerep.client import Job

Name = Annotated[str, typer.Argument(help="Name of the job.")]


def _show(job: Job, as_json: bool) -> None:
    if as_json:
        print_json(job)
    console.print(one_line(job))


@app.command()
@connected
def pause(name: Name, as_json: Json = False, *, connection: Connection) -> None:
    """Pauses a job: no more shards are leased until it is resumed; leased ones are finished.

    Example: stablerep jobs pause shoes
    """
    with connection.client() as client:
        _show(client.pause_job(name), as_json)


@app.command()
@connected
def resume(name: Name, as_json: Json = False, *, connection: Connection) -> None:
    """Resumes a paused job.

    Example: stablerep jobs resume shoes
    """
    with connection.client() as client:
        _show(client.resume_job(name), as_json)


@app.command()
@connected
def cancel(name: Name, as_json: Json = False, *, connection: Connection) -> None:
    """Cancels a job; shards already written stay. Workers notice within seconds.

    Example: stablerep jobs cancel shoes
    """
    with connection.client() as client:
        _show(client.cancel_job(name), as_json)


@app.command()
@connected
def retry(
    name: Name,
    shards: Annotated[
        str, typer.Option("--shards", help="Numbers of dead shards with commas; none: all that are dead.")
    ] = "",
    as_json: Json = False,
    *,
    connection: Connection,
) -> None:
    """Retries dead shards; a job that failed by them runs again.

    Examples:

        stablerep jobs shards shoes --state dead

        stablerep jobs retry shoes

        stablerep jobs retry shoes --shards 3,17
    """
    numbers = _numbers(shards)
    with connection.client() as client:
        before = client.get_job(name).counts.dead
        job = client.retry_job(name, numbers)
    console.print(f"{before - job.counts.dead} dead shards are tried again")
    _show(job, as_json)


@app.command()
@connected
def delete(
    name: Name,
    with_data: Annotated[
        bool, typer.Option("--with-data", help="Delete the dataset too: every image that the job made.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Cancel the job first when it is not over.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
    *,
    connection: Connection,
) -> None:
    """Deletes a job that is over; its dataset stays readable unless --with-data is given.

    Examples:

        stablerep jobs delete shoes

        stablerep jobs delete shoes --with-data --force --yes
    """
    with connection.client() as client:
        if not yes:
            job = client.get_job(name)
            what = f"its {job.counts.images:,} images" if with_data else "nothing of its dataset"
            typer.confirm(f"{one_line(job)}\nDelete the job and {what}?", abort=True, err=True)
        count = client.delete_job(name, delete_data=with_data, force=force)
    if as_json:
        print_json({"name": name, "objects_deleted": count})
    console.print(f"deleted, {count:,} objects" + ("" if with_data else "; the dataset stays"))


@app.command()
@connected
def shards(
    name: Name,
    state: Annotated[str, typer.Option("--state", help="pending, leased, done or dead; empty: all.")] = "",
    most: Annotated[int, typer.Option("--most", min=1, help="Maximum number of shards to list.")] = 100,
    as_json: Json = False,
    *,
    connection: Connection,
) -> None:
    """Lists shards with who works on them, what went wrong, and why one is dead.

    Examples:

        stablerep jobs shards shoes --state dead

        stablerep jobs shards shoes --state leased --most 1000
    """
    shown = table("shard", "state", "errors", "lost", "worker", "last error")
    with connection.client() as client:
        found = list(islice(client.list_shards(name, state or None, page_size=min(most + 1, 1000)), most + 1))
    if as_json:
        print_json(found[:most])
        return
    for shard in found[:most]:
        counts = (str(shard.errors), str(shard.lost_leases))
        shown.add_row(str(shard.number), shard.state.value, *counts, shard.worker, shard.error)
    console.print(shown if found else f"no {state.lower() + ' ' if state else ''}shards")
    if len(found) > most:
        console.print(f"and more; --most {10 * most} shows them")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InvalidInput(f"{text!r} is not numbers with commas, such as 3,17", field="--shards") from None
