"""Verbs that run the services on this machine: demo, up, doctor."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.text import Text

from stablerep.cli.show import Json, print_json
from stablerep.progress import console


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the demo makes.")] = Path("demo"),
    seeds: Annotated[
        int | None, typer.Option(help="Training seeds; more than one runs the longer study.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="tiny (a minute or two), demo (about 8) or study (3 seeds, two controls; about an hour)."
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Throw away what is in the folder and start over.")
    ] = False,
) -> None:
    """Runs the whole path on this machine: captions, images, training, probe, report.

    A few steps of each stage are timed first, for an estimate that is kept current. Ctrl-C stops it cleanly;
    the same command resumes it.

    Examples:

        stablerep demo

        stablerep demo --size tiny --out trial

        stablerep demo --seeds 3 --out study
    """
    from stablerep.demo.run import run_demo

    run_demo(out, size=size, seeds=seeds, fresh=fresh)


def up(
    data: Annotated[Path, typer.Option("--data", help="Folder for store, queue and logs.")] = Path(
        "stablerep-data"
    ),
    address: Annotated[
        str, typer.Option("--address", help="host:port on which the gateway listens.")
    ] = "127.0.0.1:50051",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Number of generator workers.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Compute threads per worker.")] = 1,
    trainers: Annotated[
        int, typer.Option(min=0, max=16, help="Number of trainer services, one run at a time each.")
    ] = 1,
    console_address: Annotated[
        str,
        typer.Option(
            "--console",
            help="host:port of the web console; auto: 127.0.0.1:8080, or a free port; empty: no console.",
        ),
    ] = "auto",
) -> None:
    """Runs gateway, queue, workers, a trainer and the console on this machine until Ctrl-C.

    What dies is restarted. The console's address, for a browser, is printed.

    Examples:

        stablerep up

        stablerep up --data /data/stablerep --address 127.0.0.1:6000 --workers 2
    """
    from stablerep.local.services import console_at, has_console, local_services

    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    with local_services(
        data,
        workers=workers,
        address=address,
        threads=threads,
        trainers=trainers,
        console=console_at(console_address) if has_console() else "",
    ) as services:
        if services.console:
            console.print(f"console at http://{services.console}")
        elif console_address:
            console.print("no console: pip install 'stablerep[console]'")
        console.print(f"gateway at {services.address}, store {services.store_url}, logs in {data / 'logs'}")
        console.print(
            f"submit with: stablerep submit CAPTIONS --name NAME --preset tiny --address {services.address}"
        )
        console.print(
            f"train with: stablerep train --on gateway --dataset NAME --run RUN --address {services.address}"
        )
        while not stop.wait(1.0):
            services.revive()
        console.print("stopping: workers finish or release their shards, a run writes a checkpoint")


def doctor(
    address: Annotated[str, typer.Option("--address", help="Also check this gateway.")] = "",
    as_json: Json = False,
) -> None:
    """Lists what is missing or misconfigured here and how to fix it; exit code 1 if anything is.

    Example: stablerep doctor
    """
    from stablerep.doctor import check_machine

    worst = 0
    for finding in check_machine(address):
        worst = max(worst, finding.level == "fault")
        if as_json:
            print_json(finding)
        colour = {"ok": "green", "note": "yellow", "fault": "red"}[finding.level]
        console.print(Text(f"{finding.level:<7}", colour), f"{finding.subject}: {finding.text}", sep="")
        if finding.fix:
            console.print(f"       fix: {finding.fix}")
    raise typer.Exit(worst)
