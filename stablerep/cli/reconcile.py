"""The verb `reconcile`: the queue against the store, and shards that are missing or torn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stablerep.cli.connection import Connection
from stablerep.cli.show import Json, print_json, table
from stablerep.progress import Bars, console

if TYPE_CHECKING:
    from stablerep.client import ReconcileResult

UNSOUND = 3
"""Exit code when something was missing, torn or could not be repaired."""
_COLUMNS = ("job", "state", "done", "dead", "missing", "torn", "indexed")


def reconcile(
    connection: Connection,
    name: Annotated[str, typer.Argument(help="Name of one job; none: all jobs in the store.")] = "",
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Read every tar and compare it with its index, not only its size: slow."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Compares jobs with the objects in the store and repairs the differences.

    Shards whose tar is gone or damaged are made again, and a job that was over runs again for them; tars
    without an index are indexed, lost captions written again. Exit code 3 if anything was missing, torn or
    not repaired.

    Examples:

        stablerep reconcile

        stablerep reconcile shoes --verify
    """
    found: list[ReconcileResult] = []
    with connection.client() as client, Bars() as bars:
        jobs = 1 if name else max(1, sum(1 for _ in client.list_jobs()))
        task = bars.add(f"reconciling {name or 'all jobs'}", total=jobs)
        for each in client.reconcile(name, verify=verify):
            found.append(each)
            bars.update(task, len(found), each.name)
    if not found:
        console.print("no jobs in the store")
        return
    if as_json:
        print_json(found)
        raise typer.Exit(0 if all(each.sound for each in found) else UNSOUND)
    shown = table(*_COLUMNS)
    for each in found:
        numbers = (each.dead, each.missing, each.torn, each.indexed)
        shown.add_row(each.name, each.state.value, f"{each.done}/{each.shards}", *map(str, numbers))
    console.print(shown)
    for each in found:
        for problem in each.problems:
            console.print(f"{each.name}: {problem}")
    if not all(each.sound for each in found):
        console.print("shards that were missing or torn are made again by the workers")
        raise typer.Exit(UNSOUND)
