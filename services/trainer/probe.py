"""Measures the features of an encoder as a run that the gateway created says (by services.trainer.launch)."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

from services.process.logs import set_up_logs
from services.trainer.created_run import CreatedRun
from services.trainer.exits import FINISHED, STOPPED, status_of
from stablerep.config.settings import load_settings
from stablerep.errors import InvalidInput, StableRepError
from stablerep.runs.records import Progress, now, write_progress
from stablerep.shards.layout import run_key

if TYPE_CHECKING:
    from stablerep.evaluation.features import Encoder
    from stablerep.runs.probe_records import ProbeRecord

_FEW_LABELS = 10


def main() -> int:
    """The exit status. There is nothing to save of a probe that is stopped: it begins again."""
    parser = argparse.ArgumentParser(prog="python -m services.trainer.probe", description=__doc__)
    parser.add_argument("--run", required=True, metavar="NAME")
    name = parser.parse_args().run

    def stop(number: int, frame: FrameType | None) -> None:
        os._exit(STOPPED)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    run = None
    try:
        settings = load_settings()
        set_up_logs(settings)
        run = CreatedRun.open(settings, name)
        if run.ended is None:
            _probe(run)
            run.succeeded()
    except StableRepError as error:
        print(f"error: {error}", file=sys.stderr)
        status = status_of(error)
        if run is not None:
            run.failed(status, error)
        return status
    return run.ended or FINISHED


def _probe(run: CreatedRun) -> None:
    from stablerep.devices import choose_device
    from stablerep.evaluation.datasets.photographs import load_photographs
    from stablerep.evaluation.feature_sets import FeatureSet
    from stablerep.evaluation.map_files import write_map
    from stablerep.evaluation.protocols import ProbeSettings, measure
    from stablerep.models.load import load_encoder
    from stablerep.progress import console
    from stablerep.runs.probe_records import compare

    task = run.spec.probe
    if task is None:
        raise InvalidInput("is no probe", field="run")

    def report(step: int) -> None:
        progress = Progress(step=step, steps=run.spec.steps, time=now())
        write_progress(run.store, run.spec.run, progress)

    report(0)
    encoder: Encoder = "pixels" if task.model == "pixels" else load_encoder(task.model)
    if encoder != "pixels":
        encoder.model.to(choose_device())
    settings = ProbeSettings(seed=task.seed, few_labels=_FEW_LABELS)
    found: dict[str, dict[str, Any]] = {"frozen": {}, "stablerep": {}}
    for number, data in enumerate(task.data, start=1):
        features = FeatureSet(encoder, load_photographs(data))
        for protocol in ("frozen", "stablerep") if task.paper else ("frozen",):
            record = measure(protocol, features, task.model, settings)
            found[protocol][features.data.name] = record.details
            _keep(run, task.model, record)
            console.print(compare([record]))
        write_map(run.store, _owner(run, task.model), features)
        report(number)
    result = {
        "model": task.model,
        "seed": task.seed,
        "probes": found["frozen"],
        "paper": found["stablerep"],
    }
    run.store.put(run_key(run.spec.run, "result.json"), (json.dumps(result, indent=1) + "\n").encode())


def _owner(run: CreatedRun, model: str) -> str:
    """The run that was measured, beside which `stablerep probe` keeps its records, too; or this one."""
    measured = model.removeprefix(f"{run.store.url.rstrip('/')}/runs/").strip("/")
    return run.spec.run if "/" in measured or measured == model else measured


def _keep(run: CreatedRun, model: str, record: ProbeRecord) -> None:
    owner = _owner(run, model)
    run.store.put(run_key(owner, f"probes/{record.name}"), (record.model_dump_json(indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
