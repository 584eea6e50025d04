"""A run as clients see it, plain frozen data read from the gateway's message; what is sent to make one."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from stablerep.config.loading import read_mapping
from stablerep.errors import InvalidInput
from stablerep.runs.config import presets
from stablerep.runs.view import RunState
from stablerep.v1 import training_pb2 as pb

_NAME = re.compile(r"(?:runs/)?([a-z0-9][a-z0-9._-]{0,62})")


@dataclass(frozen=True)
class Run:
    """An encoder trained on datasets, or measured."""

    name: str
    run: str
    state: RunState
    run_url: str
    config: dict[str, Any]
    """The resolved configuration of a training; empty for a probe."""
    probe: dict[str, Any]
    """What is measured; empty for a training."""
    nodes: int
    gpus_per_node: int
    processes_per_node: int
    launcher: str
    step: int
    steps: int
    loss: float | None
    views_per_second: float
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    update_time: datetime | None
    expected_end_time: datetime | None
    error: str
    message: str
    restarts: int
    result: dict[str, Any]
    """What a finished run came to."""

    @property
    def done(self) -> bool:
        """True in a final state."""
        return self.state.final


@dataclass(frozen=True)
class RunMetrics:
    """Metrics after a step, such as loss and learning_rate."""

    step: int
    values: dict[str, float]


def read_run(message: pb.Run) -> Run:
    """The message of the gateway as plain data."""
    return Run(
        name=message.name,
        run=message.name.removeprefix("runs/"),
        state=RunState(pb.Run.State.Name(message.state)),
        run_url=message.run_url,
        config=json.loads(message.config or "{}"),
        probe={field.name: _plain(value) for field, value in message.probe.ListFields()},
        nodes=message.resources.nodes,
        gpus_per_node=message.resources.gpus_per_node,
        processes_per_node=message.resources.processes_per_node,
        launcher=message.launcher,
        step=message.step,
        steps=message.steps,
        loss=message.loss if message.HasField("loss") else None,
        views_per_second=message.views_per_second,
        create_time=_time(message, "create_time"),
        start_time=_time(message, "start_time"),
        end_time=_time(message, "end_time"),
        update_time=_time(message, "update_time"),
        expected_end_time=_time(message, "expected_end_time"),
        error=message.error,
        message=message.message,
        restarts=message.restarts,
        result=json.loads(message.result or "{}"),
    )


def read_metrics(message: pb.Metrics) -> RunMetrics:
    """The message of the gateway as plain data."""
    return RunMetrics(message.step, dict(message.values))


def run_name(name: str) -> str:
    """`runs/NAME` from that or from the bare name. Raises InvalidInput: it is neither."""
    matched = _NAME.fullmatch(name)
    if matched is None:
        raise InvalidInput(f"{name!r} is no name of a run; it looks like runs/my-run", field="name")
    return f"runs/{matched[1]}"


def create_request(run: str, **more: Any) -> pb.CreateRunRequest:
    """The message for what both kinds of run have in common; a request id is made where none is given."""
    name = run_name(run).removeprefix("runs/")
    request_id = more.pop("request_id", "") or uuid4().hex
    resources = {key: more.pop(key, 0) for key in ("nodes", "gpus_per_node", "processes_per_node")}
    try:
        return pb.CreateRunRequest(
            run=name, request_id=request_id, resources=pb.Resources(**resources), **more
        )
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"a value does not fit: {error}", field="request") from None


def training_message(
    datasets: Sequence[str], preset: str | Path, config: Mapping[str, Any] | None
) -> pb.Training:
    """The message for a training; a YAML file in place of a preset's name is read here.

    Raises:
        InvalidInput: a preset that is neither known nor a file.
    """
    text = str(preset)
    settings: dict[str, Any] = {}
    if text and text not in presets():
        if not Path(text).is_file():
            known = ", ".join(presets())
            raise InvalidInput(f"{text!r} is neither a file nor one of the presets {known}", field="preset")
        settings = read_mapping(Path(text), "preset")
        text = ""
    for own in ("run", "datasets"):  # of a file that `stablerep train` takes, too
        settings.pop(own, None)
    settings = {**_dotted(settings), **(config or {})}
    values = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    return pb.Training(preset=text, datasets=datasets, config=values)


def probe_message(model: str, data: Iterable[str], *, seed: int, paper: bool) -> pb.Probe:
    """The message for a probe; `model` may be a run's bare name with `runs/` before it."""
    return pb.Probe(model=model, data=data, seed=seed, paper=paper)


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`, so that an override of one key leaves its siblings."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value and key != "kwargs":
            flat.update(_dotted(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else list(value)


def _time(message: pb.Run, field: str) -> datetime | None:
    return getattr(message, field).ToDatetime(tzinfo=UTC) if message.HasField(field) else None
