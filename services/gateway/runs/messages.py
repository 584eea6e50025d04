"""A run of the library as the message that clients get."""

import json
from datetime import datetime
from typing import Any

from stablerep.runs.metrics import Metrics
from stablerep.runs.spec import RunSpec
from stablerep.runs.view import RunView, start_time
from stablerep.shards.layout import run_prefix
from stablerep.v1 import training_pb2 as pb


def run_message(store_url: str, view: RunView) -> pb.Run:
    """All fields of `Run`; `run_url` is what `stablerep probe` and `export` take."""
    url = f"{store_url.rstrip('/')}/{run_prefix(view.run).rstrip('/')}"
    message = pb.Run(
        name=f"runs/{view.run}", state=view.state.value, run_url=url, config=view.config, steps=view.steps
    )
    if view.spec is not None:
        _put_spec(message, view.spec)
    if view.create is not None:
        message.create_time.FromDatetime(view.create.create_time)
    if view.progress is not None:
        message.step = view.progress.step
        message.views_per_second = view.progress.views_per_second
        if view.progress.loss is not None:
            message.loss = view.progress.loss
        message.update_time.FromDatetime(view.progress.time)
        _put_time(message.expected_end_time, None if view.state.final else view.progress.expected_end_time)
    if view.status is not None:
        message.message = "" if view.state.final else view.status.message
        message.restarts = view.status.restarts
    elif not view.state.final and view.spec is not None:
        message.message = "waits for a trainer service" if view.spec.launcher == "local" else "waits"
    _put_time(message.start_time, start_time(view))
    if view.end is not None:
        message.end_time.FromDatetime(view.end.time)
        message.error = view.end.error
    if view.result is not None:
        message.result = json.dumps(view.result)
    return message


def metrics_message(metrics: Metrics) -> pb.Metrics:
    """The metrics after a step."""
    values = {name: float(value) for name, value in metrics.items() if name != "step"}
    return pb.Metrics(step=int(metrics["step"]), values=values)


def _put_spec(message: pb.Run, spec: RunSpec) -> None:
    resources = spec.resources
    message.resources.nodes = resources.nodes
    message.resources.gpus_per_node = resources.gpus_per_node
    message.resources.processes_per_node = resources.processes_per_node
    message.launcher = spec.launcher
    message.ttl_seconds, message.deadline_seconds = spec.ttl_seconds, spec.deadline_seconds
    message.max_restarts, message.queue = spec.max_restarts, spec.queue
    if spec.probe is not None:
        message.probe.CopyFrom(
            pb.Probe(
                model=spec.probe.model, data=spec.probe.data, seed=spec.probe.seed, paper=spec.probe.paper
            )
        )


def _put_time(field: Any, moment: datetime | None) -> None:
    if moment is not None:
        field.FromDatetime(moment)
