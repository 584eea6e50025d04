"""Verbs of evaluation: probe, compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stablerep.cli.connection import Connection, connected
from stablerep.cli.elsewhere import Deadline, Gpus, On, Queue, Ttl, Watch, created, is_elsewhere, name_of
from stablerep.cli.show import Json, print_json
from stablerep.errors import InvalidInput
from stablerep.progress import console, step

if TYPE_CHECKING:
    from stablerep.evaluation.datasets.photographs import Photographs
    from stablerep.evaluation.features import Encoder
    from stablerep.evaluation.protocols import ProbeSettings
    from stablerep.runs.probe_records import ProbeRecord
    from stablerep.storage import Store


_OF_TEXTS = ("zeroshot", "retrieval")
"""Protocols of runs that know texts."""


@connected
def probe(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A run's URL, an export, a timm or hf-hub: name, a checkpoint of StableRep's release "
            "(.pth), or `pixels`; several.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="fashion, fashion-full, digits, a folder of class folders, or with --root aircraft, "
            "caltech101, cars, cifar10, cifar100, dtd, flowers102, food101, pets, sun397, voc2007; several "
            "with commas.",
        ),
    ] = "fashion",
    paper: Annotated[
        bool,
        typer.Option("--paper", help="The paper's probe too: SGD, rates and batch norm chosen, 90 epochs."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides the split and the draws.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Compute threads.")] = 1,
    few: Annotated[
        int | None,
        typer.Option("--few", min=1, help="Labels a class in the second figure; default: 10, or all."),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Draws of these few labels.")] = 20,
    neighbours: Annotated[int, typer.Option("--neighbours", "-k", min=1, help="Neighbours that vote.")] = 20,
    batch: Annotated[int, typer.Option("--batch-size", min=1, help="Photographs encoded at once.")] = 250,
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            help="frozen, stablerep, dinov3-linear, logreg, knn, fewshot, zeroshot, retrieval; several.",
        ),
    ] = "frozen",
    ways: Annotated[int, typer.Option(min=2, help="Classes of an episode (fewshot).")] = 5,
    shots: Annotated[int, typer.Option(min=1, help="Labels a class in an episode (fewshot).")] = 5,
    queries: Annotated[
        int, typer.Option(min=1, help="Test photographs a class in an episode (fewshot).")
    ] = 15,
    episodes: Annotated[int, typer.Option(min=2, help="Number of episodes (fewshot).")] = 600,
    device: Annotated[
        str, typer.Option(help="auto: the GPU where there is one; or cpu, cuda, cuda:1.")
    ] = "auto",
    at_step: Annotated[
        int | None,
        typer.Option(
            "--step", min=0, help="A checkpoint of the run, finished or not; 0: its last checkpoint."
        ),
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder of the transfer sets, as torchvision lays them out.")
    ] = None,
    cache: Annotated[
        str, typer.Option("--cache", help="Folder or s3:// URL that features are kept in for other probes.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the records; those of a run are kept with it.")
    ] = None,
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
    """Measures frozen features: linear probe, few labels a class, nearest neighbours; the paper's probe.

    Examples:

        stablerep probe demo/export

        stablerep probe demo/export --paper

        stablerep probe pixels --data fashion,digits

        stablerep probe s3://bucket/runs/first --data cifar10,dtd,voc2007 --root data --protocol logreg

        stablerep probe file:///data/runs/first --step 0 --data photographs

        stablerep probe file:///data/runs/clip --protocol retrieval --data file:///data/datasets/shoes

        stablerep probe runs/first --on kubernetes --run probe-first --watch
    """
    names = [name.strip() for name in data.split(",")]
    if is_elsewhere(on):
        if len(models) > 1:
            raise InvalidInput("takes one model with --on", field="models")
        model = models[0]
        with connection.client() as client:
            measured = client.runs.probe(
                name_of(run or f"probe-{name_of(model)}"),
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
            created(client, measured, watch=watch, as_json=as_json)
        return
    if run or gpus or queue or deadline or ttl:
        raise InvalidInput("--run, --gpus, --queue, --deadline and --ttl go with --on", field="--on")

    chosen = _protocols(protocol, paper=paper)
    import torch

    from stablerep.evaluation.protocols import ProbeSettings
    from stablerep.runs.probe_records import compare as table
    from stablerep.storage import open_store

    torch.set_num_threads(threads)
    settings = ProbeSettings(seed, few, draws, neighbours, ways, shots, queries, episodes)
    sets = _Sets(root, batch, open_store(cache) if cache else None)
    found = []
    for model in models:
        records = _records(model, at_step, names, chosen, device, settings, sets)
        kept = [_keep(record, model, out) for record in records]
        found += records
        for record in records:
            console.print(f"{record.data}, {record.protocol}; % with 95 % intervals\n{table([record])}")
        for place in filter(None, kept):
            console.print(f"record: {place}")
    if as_json:
        print_json([record.model_dump(mode="json") for record in found])


def _records(
    model: str,
    at_step: int | None,
    data: list[str],
    protocols: list[str],
    device: str,
    settings: ProbeSettings,
    sets: _Sets,
) -> list[ProbeRecord]:
    """What one model measures up to, on all data by all protocols."""
    records = []
    if frozen := [name for name in protocols if name not in _OF_TEXTS]:
        encoder, shown = _encoder(model, at_step, device)
        records = [one for name in data for one in _measure(encoder, shown, name, frozen, settings, sets)]
    if with_texts := [name for name in protocols if name in _OF_TEXTS]:
        records += _measure_texts(model, at_step, data, with_texts, device, sets)
    return records


def _protocols(names: str, *, paper: bool) -> list[str]:
    """The protocols to measure by. Raises InvalidInput for another name."""
    from stablerep.evaluation.protocols import PROTOCOLS

    found = [name.strip() for name in names.split(",")] + (["stablerep"] if paper else [])
    for name in found:
        if name not in (*PROTOCOLS, *_OF_TEXTS):
            known = ", ".join((*PROTOCOLS, *_OF_TEXTS))
            raise InvalidInput(f"{name!r} is none of {known}", field="--protocol")
    return list(dict.fromkeys(found))


def _encoder(model: str, at_step: int | None, device: str) -> tuple[Encoder, str]:
    """What to measure, on its device, and how it is called in the record."""
    from stablerep.devices import choose_device

    if model == "pixels":
        return "pixels", model
    if at_step is None:
        from stablerep.models.load import load_encoder

        encoder, shown = load_encoder(model), model
    else:
        from stablerep.training.encoders import load_checkpoint_encoder

        encoder, found = load_checkpoint_encoder(model, at_step or None)
        shown = f"{model}@{found}"
    encoder.model.to(choose_device(device))
    return encoder, shown


@dataclass(frozen=True)
class _Sets:
    """Where labelled photographs come from, and how they are encoded."""

    root: Path | None
    batch: int
    cache: Store | None

    def load(self, name: str, encoder: Encoder) -> Photographs:
        """A folder, a transfer set, or photographs by their name."""
        from stablerep.evaluation.datasets.folder import load_folder
        from stablerep.evaluation.datasets.photographs import load_photographs
        from stablerep.evaluation.datasets.transfer import TRANSFER_SETS, load_transfer

        whole = 64 if isinstance(encoder, str) else encoder.image_size
        if name in TRANSFER_SETS:
            if self.root is None:
                raise InvalidInput(f"names the folder that holds {name}", field="--root")
            return load_transfer(name, self.root, size=whole)
        if not Path(name).is_dir():
            return load_photographs(name)
        return load_folder(
            Path(name), size=whole if isinstance(encoder, str) else round(whole / encoder.crop_ratio)
        )


def _measure(
    encoder: Encoder, model: str, name: str, protocols: list[str], settings: ProbeSettings, sets: _Sets
) -> list[ProbeRecord]:
    from stablerep.evaluation.feature_sets import FeatureSet
    from stablerep.evaluation.protocols import measure

    features = FeatureSet(encoder, sets.load(name, encoder), sets.batch, sets.cache)
    records = []
    for protocol in protocols:
        with step(f"{protocol} on {features.data.name}"):
            records.append(measure(protocol, features, model, settings))
    return records


def _measure_texts(
    model: str, at_step: int | None, names: list[str], protocols: list[str], device: str, sets: _Sets
) -> list[ProbeRecord]:
    """Zero-shot on photographs, retrieval on datasets, by both towers of a run."""
    from stablerep.data import GroupDataset
    from stablerep.devices import choose_device
    from stablerep.training.image_text import load_towers
    from stablerep.training.zero_shot import retrieval, zero_shot

    towers, found = load_towers(model, at_step or None)
    towers = towers.to(choose_device(device))
    shown = model if at_step is None else f"{model}@{found}"
    records = []
    for name in names:
        for protocol in protocols:
            with step(f"{protocol} on {name}"):
                if protocol == "zeroshot":
                    records.append(zero_shot(towers, shown, sets.load(name, towers.encoder)))
                else:
                    records.append(retrieval(towers, shown, GroupDataset(name)))
    return records


def _keep(record: ProbeRecord, model: str, out: Path | None) -> str | None:
    """Writes a record to `out`, and to the store of a run that was measured; says where, or None."""
    content = (record.model_dump_json(indent=1) + "\n").encode()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / record.name).write_bytes(content)
        return str(out / record.name)
    root, separator, run = model.rstrip("/").rpartition("/runs/")
    if not separator or "/" in run:
        return None
    from stablerep.shards.layout import run_key
    from stablerep.storage import open_store

    key = run_key(run, f"probes/{record.name}")
    open_store(root).put(key, content)
    return f"{root}/{key}"


def compare(
    records: Annotated[
        list[str], typer.Argument(metavar="RECORD|RUN...", help="Files of records, or URLs of runs.")
    ],
    data: Annotated[str, typer.Option("--data", help="Only records on these photographs.")] = "",
    protocol: Annotated[
        str, typer.Option("--protocol", help="frozen, stablerep, logreg and so on, as of probe.")
    ] = "frozen",
    as_json: Json = False,
) -> None:
    """Shows what probes measured side by side, the best first; refuses to rank unlike measurements.

    Examples:

        stablerep compare file:///data/runs/first file:///data/runs/second

        stablerep compare probes/*.json --data fashion
    """
    from stablerep.runs.probe_records import compare as table

    found = [record for name in records for record in _read_records(name)]
    chosen = [one for one in found if one.protocol == protocol and (not data or one.data == data)]
    if not chosen:
        there = ", ".join(sorted({f"{one.data} ({one.protocol})" for one in found})) or "none at all"
        raise InvalidInput(f"no such record; there are {there}", field="records")
    if as_json:
        print_json([record.model_dump(mode="json") for record in chosen])
    console.print(table(chosen))


def _read_records(name: str) -> list[ProbeRecord]:
    from stablerep.runs.probe_records import parse_record
    from stablerep.storage import open_store

    if Path(name).is_file():
        return [parse_record(Path(name).read_bytes(), name)]
    store = open_store(name)
    return [parse_record(store.get(o.key), f"{name}/{o.key}") for o in store.list("probes/")]
