"""Verbs around encoders: train, probe, export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from stablerep.cli.show import Json, print_json
from stablerep.errors import InvalidInput
from stablerep.local.children import start_process
from stablerep.progress import console, step


def train(
    dataset: Annotated[list[str], typer.Option("--dataset", help="URL of a dataset; may be repeated.")],
    run: Annotated[str, typer.Option("--run", help="URL of the run, e.g. file:///data/runs/first.")],
    preset: Annotated[str, typer.Option("--preset", help="Training preset or YAML file.")] = "demo",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override of a setting.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Number of processes on this machine (torchrun).")
    ] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Compute threads per process.")] = 1,
) -> None:
    """Trains an encoder on datasets. Ctrl-C writes a checkpoint; the same command resumes it.

    Examples:

        stablerep train --dataset demo/store/datasets/demo --run demo/store/runs/mine --set steps=300

        stablerep train --preset paper_vit_b16_cc12m_1x --dataset s3://bucket/datasets/cc12m --run s3://bucket/runs/b16
    """
    from stablerep.cli.jobs import split_overrides
    from stablerep.config.training import load_train_config

    config = load_train_config(
        preset, {**split_overrides(overrides), "datasets": dataset, "run": run, "threads": threads}
    )
    launcher = [sys.executable, "-m"]
    if processes > 1:
        # `--standalone` resolves the host's own name, which may have no address.
        launcher += ["torch.distributed.run", "--local-addr=127.0.0.1", "--rdzv-backend=c10d"]
        launcher += ["--rdzv-endpoint=127.0.0.1:0", f"--nproc-per-node={processes}", "-m"]
    command = [*launcher, "services.trainer", "--config-json", config.model_dump_json()]
    raise typer.Exit(_run_to_end(command, {"OMP_NUM_THREADS": str(threads)}))


def _run_to_end(command: list[str], environment: dict[str, str]) -> int:
    """Runs a child in this terminal; on Ctrl-C, which reaches both, waits for its checkpoint."""
    process = start_process(command, environment, own_session=False)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            console.print("stopping: the trainer writes a checkpoint first")


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
    as_json: Json = False,
) -> None:
    """Measures frozen features: linear probe, 10 labels a class, nearest neighbours; the paper's probe.

    Examples:

        stablerep probe demo/export

        stablerep probe demo/export --paper

        stablerep probe pixels --data fashion,digits
    """
    import torch

    from stablerep.evaluation import format_table, paper_probe, probe_model
    from stablerep.evaluation.datasets.photographs import load_photographs
    from stablerep.models.load import load_encoder

    torch.set_num_threads(threads)
    encoder = None if model == "pixels" else load_encoder(model)
    results, papers = {}, {}
    for name in data.split(","):
        photographs = load_photographs(name.strip())
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
