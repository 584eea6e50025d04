"""Verbs around runs of a gateway: runs list|show|watch|logs|cancel|resume|delete."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stablerep.cli.connection import Connection, connected
from stablerep.cli.show import Json, near_time, print_json, table
from stablerep.progress import Bars, console

if TYPE_CHECKING:
    from stablerep.client import Client, Run

Name = Annotated[str, typer.Argument(help="Name of the run.")]
app = typer.Typer(no_args_is_help=True, help="List, watch, stop and delete runs: trainings and probes.")


@app.command("list")
@connected
def list_(
    most: Annotated[int, typer.Option("--most", min=1, help="Maximum number of runs to list.")] = 100,
    as_json: Json = False,
    *,
    connection: Connection,
) -> None:
    """Lists the runs in the gateway's store, those of `stablerep train` included.

    Example: stablerep runs list
    """
    shown = table("run", "state", "step", "loss", "expected end", "where")
    with connection.client() as client:
        found = list(islice(client.runs.list(page_size=min(most + 1, 1000)), most + 1))
    if as_json:
        print_json(found[:most])
        return
    for run in found[:most]:
        step = f"{run.step:,} / {run.steps:,}"
        shown.add_row(run.run, run.state, step, loss_of(run), near_time(run.expected_end_time), run.message)
    console.print(shown if found else "no runs")
    if len(found) > most:
        console.print(f"and more; --most {10 * most} shows them")


@app.command()
@connected
def show(name: Name, as_json: Json = False, *, connection: Connection) -> None:
    """Shows one run: state, progress, where its processes are, what it came to.

    Example: stablerep runs show first
    """
    with connection.client() as client:
        run = client.runs.get(name)
    if as_json:
        print_json(run)
        return
    console.print(one_line(run))
    lines = {
        "url": run.run_url,
        "processes": _processes(run),
        "where": run.message,
        "restarts": f"{run.restarts:,}" if run.restarts else "",
        "views/s": f"{run.views_per_second:,.0f}" if run.views_per_second else "",
        "created": near_time(run.create_time),
        "ended": near_time(run.end_time),
        "expected end": near_time(run.expected_end_time),
        "error": run.error,
    }
    for title, text in lines.items():
        if text:
            console.print(f"  {title:<16}{text}", markup=False)
    for title, text in _result_lines(run.result):
        console.print(f"  {title:<16}{text}", markup=False)


@app.command()
@connected
def watch(name: Name, as_json: Json = False, *, connection: Connection) -> None:
    """Follows a run until it ends; exit code 1 unless it succeeds. Ctrl-C leaves it running.

    With --json every change is a line: the run, and the metrics that are new.

    Example: stablerep runs watch first
    """
    with connection.client() as client:
        follow(client, name, as_json=as_json)


@app.command()
@connected
def logs(
    name: Name,
    node: Annotated[int, typer.Option("--node", min=0, help="Number of the machine, from 0.")] = 0,
    lines: Annotated[int, typer.Option("--lines", min=1, help="Lines from the end.")] = 1000,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Stay and print what comes until the run ends.")
    ] = False,
    *,
    connection: Connection,
) -> None:
    """Prints what the processes of a run print.

    Examples:

        stablerep runs logs first --follow

        stablerep runs logs first --node 3 --lines 50
    """
    with connection.client() as client:
        for text in client.runs.logs(name, node=node, lines=lines, follow=follow):
            sys.stdout.write(text)
            sys.stdout.flush()


@app.command()
@connected
def cancel(name: Name, as_json: Json = False, *, connection: Connection) -> None:
    """Stops a run; its checkpoints and metrics stay.

    Example: stablerep runs cancel first
    """
    with connection.client() as client:
        _show(client.runs.cancel(name), as_json)


@app.command()
@connected
def resume(name: Name, as_json: Json = False, *, connection: Connection) -> None:
    """Runs a cancelled or failed run again, from its last checkpoint.

    Example: stablerep runs resume first
    """
    with connection.client() as client:
        _show(client.runs.resume(name), as_json)


@app.command()
@connected
def delete(
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Cancel the run first when it is not over.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
    *,
    connection: Connection,
) -> None:
    """Deletes a run that is over: its checkpoints, metrics and encoder.

    Example: stablerep runs delete first --yes
    """
    with connection.client() as client:
        if not yes:
            run = client.runs.get(name)
            typer.confirm(f"{one_line(run)}\nDelete all that it has learnt?", abort=True, err=True)
        count = client.runs.delete(name, force=force)
    if as_json:
        print_json({"name": name, "objects_deleted": count})
    console.print(f"deleted, {count:,} objects")


def follow(client: Client, name: str, *, as_json: bool = False) -> None:
    """Shows a run until it is over. Raises typer.Exit(1) unless it succeeded."""
    run = None
    try:
        with Bars() as bars:
            bar = None
            for run, metrics in client.runs.watch(name):
                if as_json:
                    print_json({"run": run, "metrics": metrics})
                if bar is None:
                    bar = bars.add(run.run, max(1, run.steps), run.step)
                note = run.message if run.state == "QUEUED" else f"loss {loss_of(run)}"
                bars.update(bar, run.step, note, total=max(1, run.steps))
    except KeyboardInterrupt:
        console.print(f"the run goes on; stablerep runs watch {name}")
        raise typer.Exit(130) from None
    if run is not None:
        console.print(one_line(run))
        raise typer.Exit(run.state != "SUCCEEDED")


def one_line(run: Run) -> str:
    """Name, state and how far it is."""
    text = f"{run.run}: {run.state}, step {run.step:,} of {run.steps:,}"
    if run.loss is not None:
        text += f", loss {run.loss:.4f}"
    return f"{text}; {run.error}" if run.error else text


def loss_of(run: Run) -> str:
    """The last loss; empty before the first."""
    return "" if run.loss is None else f"{run.loss:.3f}"


def _show(run: Run, as_json: bool) -> None:
    if as_json:
        print_json(run)
    console.print(one_line(run))


def _result_lines(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Accuracies of a probe, or what else a run came to."""
    for data, found in result.get("probes", {}).items():
        few = f"{100 * found['few']:.1f} % of {found['few_labels']} labels a class"
        yield data, f"{100 * found['linear']:.1f} % linear, {few}, {100 * found['knn']:.1f} % kNN"
    for data, found in result.get("paper", {}).items():
        yield f"{data}, paper", f"{100 * found['accuracy']:.1f} %"
    for key, value in result.items():
        if key not in ("probes", "paper"):
            yield key, str(value)


def _processes(run: Run) -> str:
    if not run.nodes:
        return ""
    gpus = f", {run.gpus_per_node} GPUs each" if run.gpus_per_node else ""
    return f"{run.nodes} x {run.processes_per_node} by {run.launcher}{gpus}"
