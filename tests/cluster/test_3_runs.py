"""Runs as Jobs of a real cluster: two torchrun pods that train from MinIO, killed, resumed, cancelled."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from minio import Minio

from stablerep.client import Client, Run, RunState
from tests.cluster.kube import Release, is_ready, name_of, until
from tests.cluster.stored import read
from tests.sweeps import SWEEP

pytestmark = pytest.mark.timeout(1500)
CONFIG = {
    "steps": 60,
    "views_per_batch": 32,
    "method.images_per_caption": 4,
    "checkpoint_every": 10,
    "log_every": 1,
    "precision": "float32",
    "encoder.kwargs": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8, "stem_type": ""},
    "head": {"hidden": 32, "out": 16},
}
SLOW = {**CONFIG, "steps": 100_000}


@pytest.fixture
def client(release: Release) -> Iterator[Client]:
    with release.client() as client:
        yield client


@pytest.fixture
def minio(release: Release) -> Iterator[Minio]:
    with release.minio() as minio:
        yield minio


@pytest.fixture(scope="module")
def dataset(release: Release, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("captions") / "captions.txt"
    file.write_text("".join(f"colour number {n}\n" for n in range(96)))
    with release.client() as client:
        client.create_job("colours", file, preset="flat", captions_per_shard=16)
        assert list(client.watch_job("colours", timeout=300))[-1].state == "SUCCEEDED"
    return "colours"


def finished(client: Client, run: str, seconds: float = 900) -> Run:
    return [run for run, _ in client.runs.watch(run, timeout=seconds)][-1]


def pods_of(release: Release, run: str) -> list[dict[str, Any]]:
    return release.items("pods", f"batch.kubernetes.io/job-name=run-{run}")


def step_of(client: Client, run: str) -> int:
    return client.runs.get(run).step


def losses(minio: Minio, run: str) -> dict[int, float]:
    lines = read(minio, f"runs/{run}/metrics.jsonl").splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


def test_two_pods_train_are_killed_and_come_to_the_weights_of_an_undisturbed_run(
    release: Release, client: Client, minio: Minio, dataset: str
) -> None:
    run = client.runs.train("pair", [dataset], preset="demo", config=CONFIG, nodes=2, launcher="kubernetes")
    assert run.state == RunState.QUEUED
    job = until("the job is there", lambda: release.items("jobs", "app.kubernetes.io/component=trainer"))[0]
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["metadata"]["ownerReferences"][0]["name"] == release.object("trainer")
    service = release.get("service", "run-pair")
    assert service["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    until("a checkpoint and more steps", lambda: step_of(client, "pair") >= 15, 600)
    victim = next(pod for pod in pods_of(release, "pair") if name_of(pod).startswith("run-pair-1-"))
    release.kubectl("delete", "pod", name_of(victim), "--grace-period=0", "--force")
    done = finished(client, "pair")
    assert done.state == RunState.SUCCEEDED, done.error
    assert done.result["ranks"] == 2
    # Beside it: one pod of two processes, which nothing disturbs.
    client.runs.train("still", [dataset], preset="demo", config=CONFIG, processes_per_node=2)
    assert finished(client, "still").state == RunState.SUCCEEDED
    assert losses(minio, "pair") == losses(minio, "still")
    assert len(losses(minio, "pair")) == CONFIG["steps"]
    weights = [read(minio, f"runs/{name}/export/model.safetensors") for name in ("pair", "still")]
    assert weights[0] == weights[1]


def test_the_first_pod_too_may_be_killed(
    release: Release, client: Client, minio: Minio, dataset: str
) -> None:
    """It holds torchrun's rendezvous: the others begin again with the one that takes its place."""
    client.runs.train("first-killed", [dataset], preset="demo", config=CONFIG, nodes=2)
    until("a checkpoint and more steps", lambda: step_of(client, "first-killed") >= 15, 600)
    victim = next(
        pod for pod in pods_of(release, "first-killed") if name_of(pod).startswith("run-first-killed-0-")
    )
    release.kubectl("delete", "pod", name_of(victim), "--grace-period=0", "--force")
    done = finished(client, "first-killed")
    assert done.state == RunState.SUCCEEDED, done.error
    assert losses(minio, "first-killed") == losses(minio, "still")


def test_progress_logs_and_metrics_are_readable_while_it_runs(
    release: Release, client: Client, dataset: str
) -> None:
    client.runs.train("slow", [dataset], preset="demo", config=SLOW, nodes=2)
    until("it trains", lambda: step_of(client, "slow") >= 10, 600)
    run = client.runs.get("slow")
    assert run.state == RunState.RUNNING
    assert f"job {release.namespace}/run-slow: 2 of 2 pods run" in run.message
    assert run.loss is not None
    assert run.expected_end_time is not None
    annotations = until(
        "the job says how far it is",
        lambda: (
            (a := release.get("job", "run-slow")["metadata"]["annotations"])
            and a.get("stablerep.io/progress", "0/").partition("/")[0] != "0"
            and a
        ),
    )
    step, _, steps = annotations["stablerep.io/progress"].partition("/")
    assert 0 < int(step) <= step_of(client, "slow")
    assert int(steps) == SLOW["steps"]
    assert float(annotations["stablerep.io/loss"]) > 0
    assert "100,000 steps of 32 views" in "".join(client.runs.logs("slow", lines=50))
    assert "100,000 steps" not in "".join(client.runs.logs("slow", node=1)), "the first rank speaks for all"
    pod = next(name_of(pod) for pod in pods_of(release, "slow") if name_of(pod).startswith("run-slow-0-"))
    with release.forward(f"pod/{pod}", 9100) as address:
        text = urllib.request.urlopen(f"http://{address}/metrics", timeout=20).read().decode()
    assert "stablerep_training_step " in text


def test_a_gateway_that_is_replaced_goes_on_with_the_run(release: Release, client: Client) -> None:
    step = step_of(client, "slow")
    uid = release.get("job", "run-slow")["metadata"]["uid"]
    release.kubectl("delete", "pod", *release.ready("gateway"), "--grace-period=0", "--force")
    until("gateways are back", lambda: len(release.ready("gateway")) == 2)
    with release.client() as other:
        until("its progress is seen", lambda: step_of(other, "slow") > step)
    assert release.get("job", "run-slow")["metadata"]["uid"] == uid


def test_cancel_removes_the_job_and_resume_starts_from_the_checkpoint(
    release: Release, client: Client, minio: Minio
) -> None:
    assert client.runs.cancel("slow").state == RunState.CANCELLED
    until("the pods are gone", lambda: not pods_of(release, "slow"))
    until("the job is gone", lambda: "run-slow" not in [name_of(j) for j in release.items("jobs")])
    until("so is its service", lambda: "run-slow" not in [name_of(s) for s in release.items("services")])
    stopped = step_of(client, "slow")
    steps = [
        str(each.object_name)
        for each in minio.list_objects("stablerep", prefix="runs/slow/checkpoints/", recursive=True)
        if str(each.object_name).endswith("checkpoint.json")
    ]
    assert steps, "it wrote a checkpoint when it was told to stop"
    assert "".join(client.runs.logs("slow", lines=5)), "the store has kept the log"
    assert client.runs.resume("slow").state == RunState.QUEUED
    until("it trains on", lambda: step_of(client, "slow") > stopped, 600)
    client.runs.delete("slow", force=True)
    until("the pods are gone", lambda: not pods_of(release, "slow"))
    assert not list(minio.list_objects("stablerep", prefix="runs/slow/", recursive=True))


def test_what_can_never_work_is_not_tried_again(release: Release, client: Client, dataset: str) -> None:
    """The network's name is only known wrong where timm is: exit status 2 ends the job at once."""
    config = {**CONFIG, "encoder.name": "no_such_network"}
    client.runs.train("wrong", [dataset], preset="demo", config=config)
    run = finished(client, "wrong", 300)
    assert run.state == RunState.FAILED
    assert "no_such_network" in run.error
    job = release.get("job", "run-wrong")
    failed = until(
        "the job has failed",
        lambda: [
            c
            for c in release.get("job", "run-wrong")["status"].get("conditions", [])
            if c["type"] == "Failed"
        ],
    )
    assert failed[0]["reason"] == "PodFailurePolicy"
    assert len(pods_of(release, "wrong")) == 1
    assert job["spec"]["backoffLimit"] == 10


def test_a_deleted_run_leaves_its_name_free(release: Release, client: Client, dataset: str) -> None:
    """Its job is still there, to its ttl: a new run of that name must not take it for its own."""
    client.runs.delete("wrong")
    assert release.get("job", "run-wrong")["status"]["failed"] == 1
    client.runs.train("wrong", [dataset], preset="demo", config={**CONFIG, "steps": 4})
    run = finished(client, "wrong", 300)
    assert (run.state, run.result["steps"]) == (RunState.SUCCEEDED, 4), run.error


def test_a_run_has_a_deadline(client: Client, dataset: str) -> None:
    client.runs.train("late", [dataset], preset="demo", config=SLOW, deadline_seconds=20)
    run = finished(client, "late", 300)
    assert run.state == RunState.FAILED
    assert "DeadlineExceeded" in run.error


def test_a_probe_is_a_job_too(release: Release, client: Client) -> None:
    client.runs.probe("probe-pair", "runs/pair", ["digits"], ttl_seconds=5)
    run = finished(client, "probe-pair", 300)
    assert run.state == RunState.SUCCEEDED, run.error
    assert 0.1 < run.result["probes"]["digits"]["linear"] <= 1
    until("its job is removed after its ttl", lambda: not pods_of(release, "probe-pair"), 120)
    assert client.runs.get("probe-pair").result == run.result


def test_a_sweep_from_outside_makes_jobs_and_says_what_failed(
    release: Release, client: Client, minio: Minio, tmp_path: Path
) -> None:
    file, out = tmp_path / "small.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(SWEEP, sort_keys=False), encoding="utf-8")
    with release.reach(release.object("gateway"), 50051) as address:
        options = [
            "--set",
            "axes.guidance.values=[2]",
            "--on",
            "kubernetes",
            "--address",
            address,
            "--allow-clear-text",
            "--out",
            str(out),
        ]
        token = {"STABLEREP_TOKEN": release.secret(f"{release.name}-stablerep-tokens", "token")}
        asked = subprocess.run(
            [sys.executable, "-m", "stablerep", "sweep", str(file), *options],
            env={**os.environ, **token},
            text=True,
            capture_output=True,
            timeout=900,
            check=False,
        )
    printed = asked.stdout + asked.stderr
    assert "1 run has no scores" in printed, printed
    assert "no caption has 8 images to draw" in printed
    points = json.loads((out / "small.json").read_text(encoding="utf-8"))["points"]
    assert [point["scores"] is not None for point in points] == [True, False]
    assert 0.1 < points[0]["scores"]["knn"] < 1
    (run,) = (point["run"] for point in points if point["scores"])
    assert pods_of(release, run)
    (record,) = minio.list_objects("stablerep", prefix=f"runs/{run}/probes/", recursive=True)
    measured = json.loads(read(minio, str(record.object_name)))
    assert measured["scores"]["knn"]["value"] == pytest.approx(points[0]["scores"]["knn"])


def test_pods_of_runs_satisfy_the_restricted_level(release: Release) -> None:
    """They ran in a namespace that enforces it; and they have no token."""
    pods = pods_of(release, "pair") + pods_of(release, "still")
    assert pods
    for pod in pods:
        assert not is_ready(pod)
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["serviceAccountName"] == release.object("trainer")
