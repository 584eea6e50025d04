"""The runs API over a socket, with a gateway that only writes runs down: the store is the truth."""

import contextlib
import json
import signal
import threading
import time
from pathlib import Path

import pytest

from stablerep.client import Client, RunState
from stablerep.errors import AlreadyExists, InvalidInput, NotFound, Unavailable, WrongState
from stablerep.runs.records import (
    Progress,
    StatusRecord,
    end_run,
    is_active,
    log_key,
    now,
    read_spec,
    release_run,
    write_progress,
    write_status,
)
from stablerep.shards.layout import run_key
from stablerep.storage import Store, open_store
from stablerep.testing.gateway import GatewayProcess
from tests.training import SETTINGS, describe, write_stripes


@pytest.fixture
def store(store_url: str) -> Store:
    write_stripes(store_url)
    describe(store_url)
    return open_store(store_url)


@pytest.fixture
def client(store: Store, gateway: GatewayProcess):
    with Client(gateway.address) as client:
        yield client


def test_a_run_is_written_down_whole_before_the_answer(client: Client, store: Store) -> None:
    run = client.runs.train("first", ["stripes"], preset="demo", config=SETTINGS, deadline_seconds=99)
    assert (run.name, run.state, run.steps) == ("runs/first", RunState.QUEUED, 40)
    assert run.message == "waits for a trainer service"
    assert run.run_url == f"{store.url.rstrip('/')}/runs/first"
    spec = read_spec(store, "first")
    assert spec.train is not None
    assert spec.train.datasets == (f"{store.url.rstrip('/')}/datasets/stripes",)
    assert spec.train.encoder.kwargs == SETTINGS["encoder.kwargs"]
    assert run.config == json.loads(spec.train.model_dump_json())
    assert (spec.deadline_seconds, spec.launcher) == (99, "local")
    assert is_active(store, "first")


def test_the_same_request_gives_the_same_run_and_another_is_refused(client: Client) -> None:
    def create(**more: object):
        return client.runs.train("first", ["stripes"], preset="demo", config=SETTINGS, **more)

    first = create(request_id="id-1")
    assert create(request_id="id-1") == first
    assert create() == first, "another id, the same run"
    with pytest.raises(AlreadyExists, match=r"temperature is 0\.1, not 0\.5"):
        client.runs.train("first", ["stripes"], preset="demo", config={**SETTINGS, "method.temperature": 0.5})
    with pytest.raises(AlreadyExists, match="id-1 came with another request before, for the run first"):
        client.runs.train("second", ["stripes"], preset="demo", config=SETTINGS, request_id="id-1")
    with pytest.raises(NotFound):
        client.runs.get("second")


def test_a_repeated_request_is_answered_though_its_dataset_is_gone(client: Client, store: Store) -> None:
    first = client.runs.train("first", ["stripes"], preset="demo", config=SETTINGS, request_id="id-1")
    store.delete("datasets/stripes/dataset.json")
    again = client.runs.train("first", ["stripes"], preset="demo", config=SETTINGS, request_id="id-1")
    assert again == first
    with pytest.raises(InvalidInput, match="there is no dataset stripes"):
        client.runs.train("second", ["stripes"], preset="demo", config=SETTINGS)


def test_a_preset_file_of_the_clients_machine_is_read_there(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 5\nviews_per_batch: 12\noptimizer: {lr: 0.1, warmup_steps: 1}\nrun: x\n")
    run = client.runs.train("first", ["stripes"], preset=file, config={"optimizer.lr": 0.2})
    assert run.config["optimizer"]["lr"] == 0.2
    assert run.config["optimizer"]["warmup_steps"] == 1
    assert run.steps == 5


def test_runs_are_listed_by_pages_those_of_the_command_line_too(client: Client, store: Store) -> None:
    for number in range(5):
        client.runs.train(f"r{number}", ["stripes"], preset="demo", config=SETTINGS)
    store.put(run_key("alone", "config.json"), b"{}")
    store.put("runs/not a run/x", b"")
    runs = {run.run: run for run in client.runs.list(page_size=2)}
    assert list(runs) == ["alone", "r0", "r1", "r2", "r3", "r4"]
    assert (runs["alone"].state, runs["alone"].launcher) == (RunState.STOPPED, "")
    progress = Progress(step=3, steps=9, time=now(), loss=1.5)
    write_progress(store, "alone", progress)
    alone = client.runs.get("alone")
    assert (alone.state, alone.step, alone.steps, alone.loss) == (RunState.RUNNING, 3, 9, 1.5)
    with pytest.raises(WrongState, match="not started by this service"):
        client.runs.cancel("alone")
    with pytest.raises(AlreadyExists, match="this service did not start"):
        client.runs.train("alone", ["stripes"], preset="demo", config=SETTINGS)


def test_a_watch_sends_metrics_once_and_ends_with_the_run(client: Client, store: Store) -> None:
    client.runs.train("first", ["stripes"], preset="demo", config=SETTINGS)
    metrics_key = run_key("first", "metrics.jsonl")

    def log(*steps: int) -> None:
        lines = [json.dumps({"step": step, "loss": 1 / (step + 1)}) + "\n" for step in steps]
        store.put(metrics_key, "".join(lines).encode())

    seen: list[int] = []
    log(5, 10)
    for run, metrics in client.runs.watch("first", timeout=20):
        seen += [each.step for each in metrics]
        if seen == [5, 10]:
            log(5, 10, 20)
        elif seen == [5, 10, 20]:
            log(5, 10)  # killed, and resumed from the checkpoint after step 10
            log(5, 10, 20, 30)
        elif 30 in seen and not run.done:
            end_run(store, "first", "FAILED", "the loss is not a number")
    assert seen == [5, 10, 20, 30]
    assert (run.state, run.error) == (RunState.FAILED, "the loss is not a number")


def test_a_watch_outlives_its_gateway(client: Client, store: Store, gateway: GatewayProcess) -> None:
    client.runs.train("first", ["stripes"], preset="demo", config=SETTINGS)
    store.put(run_key("first", "metrics.jsonl"), b'{"step": 1, "loss": 1.0}\n')
    seen: list[int] = []

    def restart() -> None:
        gateway.end(signal.SIGKILL)
        gateway.start()
        store.put(run_key("first", "metrics.jsonl"), b'{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n')
        end_run(store, "first", "SUCCEEDED")

    thread = threading.Thread(target=restart)
    for _, metrics in client.runs.watch("first", timeout=40):
        if not seen:
            thread.start()
        seen += [each.step for each in metrics]
    thread.join()
    assert seen == [1, 2]


def test_cancel_resume_and_delete_change_the_store_alone(client: Client, store: Store) -> None:
    client.runs.train("first", ["stripes"], preset="demo", config=SETTINGS)
    with pytest.raises(WrongState, match="QUEUED, not over"):
        client.runs.delete("first")
    assert client.runs.cancel("first").state == RunState.CANCELLED
    ended = client.runs.get("first").end_time
    assert client.runs.cancel("first").end_time == ended, "a second time changes nothing"
    assert client.runs.resume("first").state == RunState.QUEUED
    assert client.runs.resume("first").state == RunState.QUEUED
    write_status(store, "first", StatusRecord(running=True, message="process 7", start_time=now()))
    assert client.runs.get("first").state == RunState.RUNNING
    store.put(run_key("first", "result.json"), b'{"loss": 1.0}')
    assert client.runs.get("first").result == {"loss": 1.0}
    with pytest.raises(WrongState, match="has succeeded"):
        client.runs.resume("first")
    write_status(store, "first", StatusRecord(running=False))
    end_run(store, "first", "SUCCEEDED")
    assert client.runs.delete("first") > 3
    assert list(store.list("runs/")) == []
    assert list(store.list("active-runs/")) == []
    with pytest.raises(NotFound):
        client.runs.get("first")


def test_a_deletion_waits_for_processes_and_an_interrupted_one_goes_on(client: Client, store: Store) -> None:
    client.runs.train("first", ["stripes"], preset="demo", config=SETTINGS)
    write_status(store, "first", StatusRecord(running=True))
    noticed = threading.Timer(2.0, lambda: release_run(store, "first"))
    noticed.start()
    store.put(run_key("first", "checkpoints/00000010/state.safetensors"), b"x")
    client.runs.delete("first", force=True)
    assert not noticed.is_alive(), "not before its processes were gone"
    assert list(store.list("runs/")) == []
    end_run(store, "second", "CANCELLED")  # all that is left of a deletion that was killed
    assert client.runs.delete("second") == 1


def test_logs_are_the_end_of_what_was_printed(client: Client, store: Store) -> None:
    client.runs.train("first", ["stripes"], preset="demo", config=SETTINGS)
    with pytest.raises(NotFound):
        list(client.runs.logs("first"))
    store.put(log_key("first", 0), b"one\ntwo\nthree\n")
    assert "".join(client.runs.logs("first", lines=2)) == "two\nthree\n"
    text = ""
    for part in client.runs.logs("first", lines=1, follow=True):
        text += part
        if text == "three\n":
            store.put(log_key("first", 0), b"two\nthree\nfour\n")  # the store keeps the end of it
        if text == "three\nfour\n":
            end_run(store, "first", "SUCCEEDED")
    assert text == "three\nfour\n"
    with pytest.raises(InvalidInput, match="node"):
        list(client.runs.logs("first", node=-1))


def test_a_gateway_killed_while_creating_leaves_a_run_or_nothing(
    client: Client, store: Store, gateway: GatewayProcess
) -> None:
    """Repeated with the same id by a client that heard nothing, the request comes to one run."""
    for number in range(6):
        name = f"r{number}"
        killer = threading.Timer(0.004 * number, lambda: gateway.end(signal.SIGKILL))
        killer.start()
        results = []

        def create(name: str = name, results: list = results) -> None:
            deadline = time.monotonic() + 60
            while not results and time.monotonic() < deadline:
                with contextlib.suppress(Unavailable):  # a restart may take longer than a client's patience
                    results.append(
                        client.runs.train(
                            name, ["stripes"], preset="demo", config=SETTINGS, request_id=f"id-{name}"
                        )
                    )

        thread = threading.Thread(target=create)
        thread.start()
        killer.join()
        gateway.start()
        thread.join(60)
        assert [run.run for run in results] == [name]
        assert client.runs.train(
            name, ["stripes"], preset="demo", config=SETTINGS, request_id=f"id-{name}"
        ) == client.runs.get(name)
    assert [run.run for run in client.runs.list()] == [f"r{number}" for number in range(6)]
    first, token = client.runs.list_page(page_size=4)
    last, end = client.runs.list_page(page_size=4, page_token=token)
    assert [[run.run for run in page] for page in (first, last)] == [["r0", "r1", "r2", "r3"], ["r4", "r5"]]
    assert end == ""


def test_a_probe_measures_a_finished_run(client: Client, store: Store) -> None:
    client.runs.train("first", ["stripes"], preset="demo", config=SETTINGS)
    with pytest.raises(InvalidInput, match=r"probe\.model: run first has no export yet"):
        client.runs.probe("probe-first", "runs/first")
    with pytest.raises(InvalidInput, match=r"probe\.model: run nothing does not exist"):
        client.runs.probe("probe-first", "runs/nothing")
    store.put(run_key("first", "export/config.json"), b"{}")
    run = client.runs.probe("probe-first", "runs/first", ["digits"])
    assert run.probe == {"model": f"{store.url.rstrip('/')}/runs/first", "data": ["digits"]}
    assert (run.steps, run.config) == (1, {})
