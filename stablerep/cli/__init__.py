"""The `stablerep` command: thin verbs over the library; nothing heavy is imported before it is used."""

from __future__ import annotations

import io
import sys
from typing import Annotated, NoReturn

import typer

from stablerep import __version__
from stablerep.cli import (
    control,
    estimate,
    importing,
    jobs,
    local,
    models,
    preview,
    probing,
    reconcile,
    runs,
    sweep,
    token,
    tokenizer,
)
from stablerep.cli.connection import connected
from stablerep.doctor import extra_of
from stablerep.errors import StableRepError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Learn visual encoders from synthetic images: captions in, groups of images, a probed encoder out.",
    epilog="Start with `stablerep demo`: the whole path on this machine; it says how long it will take.",
)
app.command("demo")(local.demo)
app.command("up")(local.up)
app.command("doctor")(local.doctor)
app.command("submit")(jobs.submit)
app.add_typer(control.app, name="jobs")
app.add_typer(runs.app, name="runs")
app.add_typer(token.app, name="token")
app.command("preview")(preview.preview)
app.command("reconcile")(connected(reconcile.reconcile))
app.command("estimate")(estimate.estimate)
app.command("gallery")(jobs.gallery)
app.command("import")(importing.import_)
app.command("tokenizer")(tokenizer.tokenizer)
app.command("train")(models.train)
app.command("probe")(probing.probe)
app.command("compare")(probing.compare)
app.command("sweep")(sweep.sweep)
app.command("export")(models.export)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"stablerep {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: an error that a user can fix becomes one line on stderr and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a caption or path must never break a narrow locale
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (StableRepError, OSError) as error:
        _give_up(str(error))
    except ModuleNotFoundError as error:
        extra = extra_of((error.name or "").split(".")[0])
        if extra is None:
            raise
        _give_up(f"this needs the package {error.name}; pip install 'stablerep[{extra}]'")


def _give_up(text: str) -> NoReturn:
    typer.secho(f"error: {text}", fg="red", err=True)
    sys.exit(1)
