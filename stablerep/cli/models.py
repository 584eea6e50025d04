"""Verbs around encoders: train, probe, export."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stablerep.cli.connection import Connection, connected
from stablerep.cli.show import Json, print_json
from stablerep.errors import InvalidInput
from stablerep.local.children import COMMAND_VARIABLE, start_process
from stablerep.progress import console, step

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


@connected
def train(
    dataset: Annotated[
        list[str],
        typer.Option(
            "--dataset",
            metavar="DATASET[=WEIGHT]",
            help="URL of a dataset, or its name in the gateway's store; may be repeated. With weights, "
            "such as URL=0.7, each gives that share of every batch.",
        ),
    ] = [],  # noqa: B006  typer copies it
    run: Annotated[
        str,
        typer.Option("--run", help="URL of the run, e.g. file:///data/runs/first; with --on a name will do."),
    ] = "",
    preset: Annotated[str, typer.Option("--preset", help="Training preset or YAML file.")] = "demo",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override of a setting.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Number of processes on each machine (torchrun).")
    ] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Compute threads per process.")] = 1,
    on: On = "here",
    nodes: Annotated[int, typer.Option(min=1, help="Number of machines, with --on.")] = 1,
    gpus: Gpus = 0,
    queue: Queue = "",
    deadline: Deadline = 0,
    ttl: Ttl = 0,
    watch: Watch = False,
    from_: Annotated[
        str, typer.Option("--from", help="Begin with the weights of this run's, export's or timm's encoder.")
    ] = "",
    show: Annotated[
        bool, typer.Option("--show", help="Print the configuration with all defaults, and train nothing.")
    ] = False,
    as_json: Json = False,
    *,
    connection: Connection,
) -> None:
    """Trains an encoder on datasets. Ctrl-C writes a checkpoint; the same command resumes it.

    With --on the gateway starts it, and it goes on without this terminal: stablerep runs.

    Examples:

        stablerep train --dataset demo/store/datasets/demo --run demo/store/runs/mine --set steps=300

        stablerep train --preset paper_vit_b16_cc12m_1x --dataset s3://bucket/datasets/cc12m --run s3://bucket/runs/1

        stablerep train --dataset URL1=0.7 --dataset URL2=0.3 --run URL --set method=clip

        stablerep train --preset paper_vit_b16_cc12m_1x --set method=mae --show

        stablerep train --on kubernetes --preset demo --dataset shoes --run shoes-1 --nodes 2 --gpus 8 --watch
    """
    from stablerep.cli.jobs import split_overrides

    changes: dict[str, Any] = split_overrides(overrides)
    names, weights = _weighted(dataset)
    if weights:
        changes["dataset_weights"] = weights
    if from_:
        changes["init"] = from_
    if show:
        _show(preset, {**changes, "threads": threads}, names, run)
        return
    for option, given in (("--dataset", names), ("--run", run)):
        if not given:
            raise InvalidInput("is missing", field=option)
    if _is_elsewhere(on):
        with connection.client() as client:
            created = client.runs.train(
                _name_of(run),
                names,
                preset=preset,
                config={"threads": threads, **changes},
                nodes=nodes,
                gpus_per_node=gpus,
                processes_per_node=0 if gpus and processes == 1 else processes,
                launcher="" if on == "gateway" else on,
                ttl_seconds=ttl,
                deadline_seconds=deadline,
                queue=queue,
            )
            _created(client, created, watch=watch, as_json=as_json)
        return
    if nodes > 1 or queue or deadline or ttl or gpus:
        raise InvalidInput("--nodes, --gpus, --queue, --deadline and --ttl go with --on", field="--on")
    _train_here(preset, {**changes, "datasets": names, "run": run, "threads": threads}, processes, threads)


def _weighted(datasets: list[str]) -> tuple[list[str], list[float]]:
    """The datasets, and their weights if they have any. Raises InvalidInput if only some have."""
    names, weights = [], []
    for text in datasets:
        name, equals, weight = text.rpartition("=")
        names.append(name if equals else text)
        if equals:
            try:
                weights.append(float(weight))
            except ValueError:
                raise InvalidInput(f"{weight!r} is no weight", field="--dataset") from None
    if weights and len(weights) != len(names):
        raise InvalidInput("give every dataset a weight, or none", field="--dataset")
    return names, weights


def _show(preset: str, changes: dict[str, Any], datasets: list[str], run: str) -> None:
    """Prints the configuration as YAML that --preset takes."""
    import yaml

    from stablerep.config.training import load_train_config, what_is_trained

    given = {"datasets": datasets or ["STORE/datasets/name"], "run": run or "STORE/runs/name"}
    config = load_train_config(preset, {**changes, **given})
    console.print(f"# {what_is_trained(config)}")
    console.print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).rstrip())


def _train_here(preset: str, changes: dict[str, Any], processes: int, threads: int) -> None:
    from stablerep.config.training import load_train_config

    config = load_train_config(preset, changes)
    launcher = [sys.executable, "-m"]
    if processes > 1:
        # `--standalone` resolves the host's own name, which may have no address.
        launcher += ["torch.distributed.run", "--local-addr=127.0.0.1", "--rdzv-backend=c10d"]
        launcher += ["--rdzv-endpoint=127.0.0.1:0", f"--nproc-per-node={processes}", "-m"]
    command = [*launcher, "services.trainer", "--config-json", config.model_dump_json()]
    environment = {"OMP_NUM_THREADS": str(threads), COMMAND_VARIABLE: typed_command()}
    raise typer.Exit(_run_to_end(command, environment))


def typed_command() -> str:
    """The command line as it was typed."""
    return shlex.join(["stablerep", *sys.argv[1:]])


def _is_elsewhere(on: str) -> bool:
    """Whether a gateway is to start it. Raises InvalidInput for a place that is none."""
    if on not in ("here", "gateway", "local", "kubernetes"):
        raise InvalidInput(f"{on!r} is none of here, gateway, local, kubernetes", field="--on")
    return on != "here"


def _name_of(run: str) -> str:
    """The name of a run that may be given by its URL."""
    return f"/{run}".rstrip("/").rpartition("/runs/")[2] if "/" in run else run


def _created(client: Client, run: Run, *, watch: bool, as_json: bool) -> None:
    from stablerep.cli.runs import follow, one_line

    if watch:
        follow(client, run.name, as_json=as_json)
    if as_json:
        print_json(run)
    console.print(f"{one_line(run)}\nfollow it: stablerep runs watch {run.run}")


def _run_to_end(command: list[str], environment: dict[str, str]) -> int:
    """Runs a child in this terminal; on Ctrl-C, which reaches both, waits for its checkpoint."""
    process = start_process(command, environment, own_session=False)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            console.print("stopping: the trainer writes a checkpoint first")


@connected
def probe(
    model: Annotated[str, typer.Argument(help="A run's URL, an export folder, a timm name, or `pixels`.")],
    data: Annotated[
        str, typer.Option("--data", help="Photographs: fashion, fashion-full, digits; several with commas.")
    ] = "fashion",
    paper: Annotated[
        bool,
        typer.Option("--paper", help="The paper's probe too: SGD, rates and batch norm chosen, 90 epochs."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides the split and the draws.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Compute threads.")] = 1,
    on: On = "here",
    run: Annotated[str, typer.Option("--run", help="Name of the run that measures, with --on.")] = "",
    gpus: Gpus = 0,
    queue: Queue = "",
    deadline: Deadline = 0,
    ttl: Ttl = 0,
    watch: Watch = False,
    as_json: Json = False,
    *,
    connection: Connection,
) -> None:
    """Measures frozen features: linear probe, 10 labels a class, nearest neighbours; the paper's probe.

    Examples:

        stablerep probe demo/export

        stablerep probe demo/export --paper

        stablerep probe pixels --data fashion,digits

        stablerep probe runs/first --on kubernetes --run probe-first --watch
    """
    names = [name.strip() for name in data.split(",")]
    if _is_elsewhere(on):
        with connection.client() as client:
            created = client.runs.probe(
                _name_of(run or f"probe-{_name_of(model)}"),
                model,
                names,
                seed=seed,
                paper=paper,
                gpus_per_node=gpus,
                launcher="" if on == "gateway" else on,
                ttl_seconds=ttl,
                deadline_seconds=deadline,
                queue=queue,
            )
            _created(client, created, watch=watch, as_json=as_json)
        return
    if run or gpus or queue or deadline or ttl:
        raise InvalidInput("--run, --gpus, --queue, --deadline and --ttl go with --on", field="--on")
    _probe_here(model, names, paper=paper, seed=seed, threads=threads, as_json=as_json)


def _probe_here(model: str, names: list[str], *, paper: bool, seed: int, threads: int, as_json: bool) -> None:
    import torch

    from stablerep.evaluation import format_table, paper_probe, probe_model
    from stablerep.evaluation.datasets.photographs import load_photographs
    from stablerep.models.load import load_encoder

    torch.set_num_threads(threads)
    encoder = None if model == "pixels" else load_encoder(model)
    results, papers = {}, {}
    for name in names:
        photographs = load_photographs(name)
        with step(f"probe on {photographs.name}"):
            results[photographs.name] = probe_model(encoder or "pixels", photographs, seed=seed)
        if paper:
            with step(f"the paper's probe on {photographs.name}"):
                found = paper_probe(encoder or "pixels", photographs, seed=seed)
            papers[photographs.name] = found
            norm = "with" if found.batch_norm else "without"
            console.print(f"  {found.accuracy * 100:.1f} % at rate {found.rate:g} {norm} batch norm")
    if as_json:
        print_json({"model": model, "seed": seed, "probes": results, "paper": papers})
    console.print(format_table(results))


def export(
    run: Annotated[str, typer.Argument(help="URL of a finished run.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("export"),
) -> None:
    """Copies a run's encoder as a plain timm checkpoint (config.json, model.safetensors).

    Examples:

        stablerep export demo/store/runs/stablerep-0 --out encoder

        python -c "import timm; timm.create_model('local-dir:encoder', pretrained=True)"
    """
    from stablerep.storage import open_store

    store = open_store(run)
    names = [o.key for o in store.list("export/")]
    if not names:
        raise InvalidInput(f"{run} has no export; is the run finished?", field="run")
    out.mkdir(parents=True, exist_ok=True)
    for key in names:
        (out / key.removeprefix("export/")).write_bytes(store.get(key))
    console.print(f"{', '.join(k.removeprefix('export/') for k in names)} in {out}")
