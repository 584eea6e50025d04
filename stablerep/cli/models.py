"""Verbs around encoders: train, export."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stablerep.cli.connection import Connection, connected
from stablerep.cli.elsewhere import (
    Deadline,
    Gpus,
    On,
    Queue,
    Ttl,
    Watch,
    created,
    is_elsewhere,
    name_of,
)
from stablerep.cli.show import Json
from stablerep.errors import InvalidInput
from stablerep.local.children import COMMAND_VARIABLE, start_process
from stablerep.progress import console

if TYPE_CHECKING:
    from stablerep.storage import Store


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
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Begin while a dataset is being generated, and wait for its shards."),
    ] = False,
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

        stablerep train --follow --dataset s3://bucket/datasets/shoes --run s3://bucket/runs/shoes

        stablerep train --on kubernetes --preset demo --dataset shoes --run shoes-1 --nodes 2 --gpus 8 --watch
    """
    from stablerep.cli.jobs import split_overrides

    changes: dict[str, Any] = split_overrides(overrides)
    names, weights = _weighted(dataset)
    if weights:
        changes["dataset_weights"] = weights
    if from_:
        changes["init"] = from_
    if follow:
        changes["follow"] = True
    if show:
        _show(preset, {**changes, "threads": threads}, names, run)
        return
    for option, given in (("--dataset", names), ("--run", run)):
        if not given:
            raise InvalidInput("is missing", field=option)
    if is_elsewhere(on):
        with connection.client() as client:
            run_created = client.runs.train(
                name_of(run),
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
            created(client, run_created, watch=watch, as_json=as_json)
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

    from stablerep.runs.config import load_train_config, what_is_trained

    given = {"datasets": datasets or ["STORE/datasets/name"], "run": run or "STORE/runs/name"}
    config = load_train_config(preset, {**changes, **given})
    console.print(f"# {what_is_trained(config)}")
    console.print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).rstrip())


def _train_here(preset: str, changes: dict[str, Any], processes: int, threads: int) -> None:
    from stablerep.runs.config import load_train_config

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


def _run_to_end(command: list[str], environment: dict[str, str]) -> int:
    """Runs a child in this terminal; on Ctrl-C, which reaches both, waits for its checkpoint."""
    process = start_process(command, environment, own_session=False)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            console.print("stopping: the trainer writes a checkpoint first")


def export(
    run: Annotated[str, typer.Argument(help="URL of a finished run.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("export"),
    name: Annotated[str, typer.Option("--name", help="Name on the model card; default: the run's.")] = "",
    license_name: Annotated[
        str, typer.Option("--license", help="Licence on the model card, such as apache-2.0.")
    ] = "",
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx, too, and compare it.")] = False,
    embeddings: Annotated[
        str,
        typer.Option(
            "--embeddings", metavar="DATASET", help="Write embeddings.parquet of this dataset's images, too."
        ),
    ] = "",
) -> None:
    """Writes a run's encoder as timm and the Hugging Face hub load it: config, weights, model card.

    embeddings.parquet has id, caption, vector, x and y of every image, for Embedding Atlas and the like.

    Examples:

        stablerep export demo/store/runs/stablerep-0 --out encoder

        python -c "import timm; timm.create_model('local-dir:encoder', pretrained=True)"

        stablerep export s3://bucket/runs/first --out encoder --name my-encoder --license cc-by-4.0

        stablerep export demo/store/runs/stablerep-0 --embeddings demo/store/datasets/demo

        stablerep export demo/store/runs/stablerep-0 --onnx
    """
    from stablerep.storage import open_store

    store = open_store(run)
    names = [o.key for o in store.list("export/")]
    if not names:
        raise InvalidInput(f"{run} has no export; is the run finished?", field="run")
    out.mkdir(parents=True, exist_ok=True)
    for key in names:
        (out / key.removeprefix("export/")).write_bytes(store.get(key))
    card = _card(store, name or run.rstrip("/").rpartition("/")[2], license_name)
    (out / "README.md").write_text(card, encoding="utf-8")
    console.print(f"{', '.join(k.removeprefix('export/') for k in names)}, README.md in {out}")
    if onnx:
        from stablerep.models.load import load_encoder
        from stablerep.models.onnx import export_onnx

        difference = export_onnx(load_encoder(str(out)), out)
        console.print(f"model.onnx in {out}; its features are torch's to {difference:.1g} of the largest")
    if embeddings:
        _write_embeddings(out, embeddings)


def _card(store: Store, name: str, license_name: str) -> str:
    import json

    from stablerep.report.model_card import model_card
    from stablerep.runs.config import parse_train_config
    from stablerep.runs.probe_records import parse_record

    return model_card(
        name,
        parse_train_config(store.get("config.json").decode()),
        json.loads(store.get("data.json")),
        json.loads(store.get("result.json")),
        [parse_record(store.get(entry.key), entry.key) for entry in store.list("probes/")],
        license_name,
    )


def _write_embeddings(out: Path, dataset: str) -> None:
    from stablerep.data import GroupDataset
    from stablerep.devices import choose_device
    from stablerep.evaluation.embeddings import write_embeddings
    from stablerep.models.load import load_encoder
    from stablerep.progress import Bars

    groups, encoder = GroupDataset(dataset), load_encoder(str(out))
    encoder.model.to(choose_device())
    with Bars() as bars:
        bar = bars.add("embeddings", int(groups.image_counts.sum()))
        count = write_embeddings(
            encoder,
            groups,
            out / "embeddings.parquet",
            progress=lambda images: bars.update(bar, images, "images"),
        )
    console.print(f"embeddings.parquet in {out}: {count:,} images")
