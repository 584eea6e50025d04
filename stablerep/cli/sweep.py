"""The verb `sweep`: datasets, runs and probes over a grid of settings, drawn as a figure."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stablerep.cli.connection import Connection, connected
from stablerep.cli.elsewhere import Gpus, On, is_elsewhere
from stablerep.cli.models import typed_command
from stablerep.cores import cores
from stablerep.errors import InvalidInput, StableRepError
from stablerep.progress import console

if TYPE_CHECKING:
    from stablerep.sweeps.plan import Plan

_AT_ONCE_ELSEWHERE = 8


@connected
def sweep(
    file: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE.yaml|NAME]...", help="Sweeps, or presets of them.")
    ] = None,
    figure: Annotated[
        list[str] | None, typer.Option("--figure", help="A figure of the paper: 2, 3 or 5; several.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the store and the figures.")] = Path("sweep"),
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override of a setting, such as seeds=1, or seeds=[3,4]."
        ),
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option("--with", help="NAME.json of another machine: its points are not made here; several."),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(min=0, help="Trainings, probes or workers at a time; 0: one a core, with --on eight."),
    ] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Compute threads of each.")] = 1,
    on: On = "here",
    gpus: Gpus = 0,
    show: Annotated[bool, typer.Option("--show", help="Print what would be made, and make nothing.")] = False,
    *,
    connection: Connection,
) -> None:
    """Makes every dataset, run and probe of a grid of settings, and draws the figure as it fills.

    With --on the gateway makes jobs and runs, and this command asks and draws. FOLDER/NAME.html, .svg and
    .json are renewed after every probe. Ctrl-C stops it, the same command resumes
    it; sweeps in one folder share the datasets and runs that they have in common.

    Examples:

        stablerep sweep --figure 2 --out study --show

        stablerep sweep --figure 2 --figure 3 --figure 5 --out study

        stablerep sweep guidance --set seeds=1 --set train.steps=100

        stablerep sweep my-sweep.yaml --processes 8

        stablerep sweep guidance --set seeds=[1,2] --out here     # and on another machine seeds=[0]

        stablerep sweep guidance --with there.json --out here     # together

        stablerep sweep my-sweep.yaml --on kubernetes --gpus 8 --processes 20
    """
    from stablerep.cli.jobs import split_overrides
    from stablerep.config.loading import parse_value
    from stablerep.sweeps.plan import make_plan
    from stablerep.sweeps.results import read_measured, text_table
    from stablerep.sweeps.spec import load_sweep, sweep_presets

    names = [*(file or []), *(figure or [])]
    if not names:
        raise InvalidInput(f"name a file, or one of {', '.join(sweep_presets())}", field="sweep")
    changes = {key: parse_value(value, value, key) for key, value in split_overrides(overrides).items()}
    store = (out / "store").resolve().as_uri()
    plans = [make_plan(*load_sweep(name, changes), store) for name in names]
    given = read_measured(measured or [], plans)
    console.print("\n".join(_told(plans)))
    if given:
        console.print(f"{len(given):,} of them measured elsewhere")
    if show:
        return
    from stablerep.local.foreground import interrupt_on_sigterm, only_one
    from stablerep.sweeps.execute import Execution
    from stablerep.sweeps.remote import RemoteExecution

    out.mkdir(parents=True, exist_ok=True)
    command = typed_command()
    interrupt_on_sigterm()
    problem = f"another sweep is running in {out}; wait for it, or name another --out"
    execution: Execution | RemoteExecution
    try:
        with only_one(out / "sweep.lock", problem), ExitStack() as stack:
            if is_elsewhere(on):
                client = stack.enter_context(connection.client())
                launcher, at_once = "" if on == "gateway" else on, processes or _AT_ONCE_ELSEWHERE
                execution = RemoteExecution(plans, out, client, launcher, gpus, at_once, command, given)
            else:
                at_once = processes or max(1, cores() // threads)
                execution = Execution(plans, out, at_once, threads, command, given)
            execution.run()
    except KeyboardInterrupt:
        console.print(f"\nstopped; everything finished so far is kept. Go on with: {command}")
        raise
    for plan in plans:
        console.print(f"\n{plan.spec.title}")
        console.print(text_table(plan, execution.scores(plan.spec.probe), execution.failures))
        console.print(f"figure: {out / plan.name}.html")
    if execution.failures:
        reasons: dict[str, list[str]] = {}
        for name, why in execution.failures.items():
            reasons.setdefault(why, []).append(name)
        count = len(execution.failures)
        lines = "\n".join(f"  {', '.join(names)}: {why}" for why, names in reasons.items())
        raise StableRepError(
            f"{count} {'run has' if count == 1 else 'runs have'} no scores; run it again to retry:\n{lines}"
        )


def _told(plans: list[Plan]) -> list[str]:
    """What the sweeps come to, in lines."""
    datasets = {name: made for plan in plans for name, made in plan.datasets.items()}
    trainings = {name: one for plan in plans for name, one in plan.trainings.items()}
    views = sum(one.config.steps * one.config.views_per_batch for one in trainings.values())
    lines = [f"{plan.name}: {plan.spec.title}; {len(plan.points)} points" for plan in plans]
    for name, made in datasets.items():
        source = made.source
        if source.captions:
            recipe = made.recipe
            captions = f"{source.limit:,} of " if source.limit else ""
            lines.append(
                f"  dataset {name}: {captions}{source.captions}, {recipe.images_per_caption} images "
                f"a caption, {recipe.steps} steps, guidance {recipe.guidance_scale:g}"
            )
        else:
            lines.append(f"  dataset {name}: {source.images or source.url}")
    return [*lines, f"{len(trainings)} runs of {views:,} views together, each probed"]
