"""Measures the features of an encoder as a run that the gateway created says (by services.trainer.launch)."""

import argparse
import dataclasses
import json
import os
import signal
import sys
from types import FrameType
from typing import Any

from services.process.logs import set_up_logs
from services.trainer.created_run import CreatedRun
from services.trainer.exits import FINISHED, STOPPED, status_of
from stablerep.config.settings import load_settings
from stablerep.errors import InvalidInput, StableRepError
from stablerep.runs.records import Progress, now, write_progress
from stablerep.shards.layout import run_key


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
    from stablerep.evaluation import format_table, paper_probe, probe_model
    from stablerep.evaluation.datasets.photographs import load_photographs
    from stablerep.models.load import load_encoder
    from stablerep.progress import console

    task = run.spec.probe
    if task is None:
        raise InvalidInput("is no probe", field="run")

    def report(step: int) -> None:
        progress = Progress(step=step, steps=run.spec.steps, time=now())
        write_progress(run.store, run.spec.run, progress)

    report(0)
    encoder = None if task.model == "pixels" else load_encoder(task.model)
    probes: dict[str, Any] = {}
    papers: dict[str, Any] = {}
    for number, data in enumerate(task.data, start=1):
        photographs = load_photographs(data)
        probes[photographs.name] = probe_model(encoder or "pixels", photographs, seed=task.seed)
        if task.paper:
            papers[photographs.name] = paper_probe(encoder or "pixels", photographs, seed=task.seed)
        report(number)
    console.print(format_table(probes))
    result = {
        "model": task.model,
        "seed": task.seed,
        "probes": {name: dataclasses.asdict(found) for name, found in probes.items()},
        "paper": {name: dataclasses.asdict(found) for name, found in papers.items()},
    }
    run.store.put(run_key(run.spec.run, "result.json"), (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
