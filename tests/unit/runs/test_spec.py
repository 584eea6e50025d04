"""What a run may ask for: rules between its fields, each refused with the field's name."""

from typing import Any

import pytest
from pydantic import ValidationError

from stablerep.runs.config import load_train_config
from stablerep.runs.spec import ProbeTask, Resources, RunSpec

TRAIN = load_train_config(
    "demo",
    {"run": "file:///s/runs/r", "datasets": ["file:///s/datasets/d"], "views_per_batch": 96, "steps": 7},
)
PROBE = ProbeTask(model="pixels", data=("digits", "fashion"))


def test_steps_are_those_of_the_training_or_the_data_sets_of_the_probe() -> None:
    assert RunSpec(run="r", train=TRAIN).steps == 7
    assert RunSpec(run="r", probe=PROBE).steps == 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "either trains or probes"),
        ({"train": TRAIN, "probe": PROBE}, "either trains or probes"),
        ({"train": TRAIN, "resources": Resources(processes_per_node=7)}, "7 processes"),
        ({"probe": PROBE, "resources": Resources(processes_per_node=2)}, "one process"),
        ({"train": TRAIN, "resources": Resources(nodes=2)}, "several need Kubernetes"),
        ({"train": TRAIN, "queue": "team"}, "Kubernetes only"),
        ({"train": TRAIN, "queue": "Team!", "launcher": "kubernetes"}, "queue"),
        ({"train": TRAIN, "deadline_seconds": -1}, "deadline_seconds"),
        (
            {"train": TRAIN, "resources": Resources(gpus_per_node=1, processes_per_node=2)},
            "more processes on a machine than GPUs",
        ),
    ],
)
def test_what_cannot_run_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RunSpec(run="r", **fields)


def test_several_machines_share_a_batch_on_kubernetes() -> None:
    captions = TRAIN.captions_per_batch
    spec = RunSpec(
        run="r",
        train=TRAIN,
        resources=Resources(nodes=captions, gpus_per_node=1),
        launcher="kubernetes",
    )
    assert spec.resources.processes == captions
