"""What `train` and `probe` share to run elsewhere: options, the place, and what is shown of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stablerep.cli.show import print_json
from stablerep.errors import InvalidInput
from stablerep.progress import console

if TYPE_CHECKING:
    from stablerep.client import Client, Run

On = Annotated[
    str,
    typer.Option(
        "--on",
        help="here: in this terminal; gateway: as a run of the gateway at --address, wherever that starts "
        "runs; local or kubernetes: the same, refused by a gateway that does otherwise.",
    ),
]
Deadline = Annotated[
    int, typer.Option("--deadline", min=0, help="Seconds of running after which a run fails; 0: none.")
]
Ttl = Annotated[
    int,
    typer.Option("--ttl", min=0, help="Seconds that its job is kept on the cluster after its end; 0: a day."),
]
Queue = Annotated[str, typer.Option("--queue", help="Kueue's LocalQueue that admits the run.")]
Gpus = Annotated[int, typer.Option("--gpus", min=0, help="GPUs of each machine of the run; 0: CPU.")]
Watch = Annotated[bool, typer.Option("--watch", help="Stay and show progress until the run ends.")]


def is_elsewhere(on: str) -> bool:
    """Whether a gateway is to start it. Raises InvalidInput for a place that is none."""
    if on not in ("here", "gateway", "local", "kubernetes"):
        raise InvalidInput(f"{on!r} is none of here, gateway, local, kubernetes", field="--on")
    return on != "here"


def name_of(run: str) -> str:
    """The name of a run that may be given by its URL."""
    return f"/{run}".rstrip("/").rpartition("/runs/")[2] if "/" in run else run


def created(client: Client, run: Run, *, watch: bool, as_json: bool) -> None:
    from stablerep.cli.runs import follow, one_line

    if watch:
        follow(client, run.name, as_json=as_json)
    if as_json:
        print_json(run)
    console.print(f"{one_line(run)}\nfollow it: stablerep runs watch {run.run}")
