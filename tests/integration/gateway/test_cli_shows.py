"""What verbs show: nothing is cut without a terminal, JSON for programs, a page about a job for people."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stablerep.cli import app
from stablerep.client import Client
from stablerep.queue.client import Queue
from stablerep.testing.gateway import GatewayProcess
from tests.gateways import caption_file, lease_all, planned

pytestmark = pytest.mark.parametrize("store_url", ["local"], indirect=True)
LONG = "a-name-of-sixty-three-characters-" + "x" * 30


def run(gateway: GatewayProcess, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*arguments, "--address", gateway.address], env={"COLUMNS": "40"})
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def until_shown(gateway: GatewayProcess, text: str, *arguments: str) -> str:
    """What is printed once `text` is in it: where jobs stand may be 2 s old."""
    deadline = time.monotonic() + 10
    while text not in (shown := run(gateway, *arguments)):
        assert time.monotonic() < deadline, shown
        time.sleep(0.1)
    return shown


def read(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_jobs_page_and_its_json(
    gateway: GatewayProcess, client: Client, redis_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "captions.txt"
    path.write_text("one shoe\n\ntwo shoes\n")
    run(
        gateway,
        "submit",
        str(path),
        "--name",
        "first",
        "--preset",
        "tiny",
        "--priority",
        "3",
        "--captions-per-shard",
        "1",
    )
    submitted = run(gateway, "submit", str(path), "--name", LONG, "--preset", "tiny", "--json")
    assert read(submitted)[0]["name"] == f"jobs/{LONG}"
    for name in ("first", LONG):
        planned(client, name)
    page = until_shown(gateway, "jobs ahead of it: 1; shards before its next one: 2", "jobs", "show", LONG)
    assert "3 records, 2 captions, 1 empty" in page
    assert f"next      stablerep jobs watch {LONG}" in page
    assert "{" not in page, "no Python mapping"
    listed = run(gateway, "jobs", "list")
    assert f"jobs/{LONG} " in listed
    assert "jobs ahead" in " ".join(listed.split())
    assert {job["dataset"]: job["shards_ahead"] for job in read(run(gateway, "jobs", "list", "--json"))} == {
        "first": 0,
        LONG: 2,
    }
    assert "…" not in listed
    assert {job["dataset"]: job["priority"] for job in read(run(gateway, "jobs", "list", "--json"))} == {
        "first": 3,
        LONG: 0,
    }
    client.pause_job(LONG)
    assert "waits     it is paused" in run(gateway, "jobs", "show", LONG)
    assert "stablerep jobs resume" in run(gateway, "jobs", "show", LONG)
    client.resume_job(LONG)
    lease_all(redis_url)
    page = run(gateway, "jobs", "show", "first")
    assert "SUCCEEDED" in page
    assert "2 of 2 shards (100%)" in page
    assert "images/s" in page
    assert "stablerep gallery file://" in page
    [shown] = read(run(gateway, "jobs", "show", "first", "--json"))
    assert (shown["state"], shown["counts"]["done"], shown["caption_report"]["empty"]) == ("SUCCEEDED", 2, 1)
    *_, last = read(run(gateway, "jobs", "watch", "first", "--json"))
    assert last == shown
    assert [shard["state"] for shard in read(run(gateway, "jobs", "shards", "first", "--json"))] == [
        "DONE",
        "DONE",
    ]
    [found] = read(run(gateway, "reconcile", "first", "--json", code=3))
    assert (found["name"], found["missing"]) == ("jobs/first", 2), "they were completed without tars"
    [cancelled] = read(run(gateway, "jobs", "cancel", "first", "--json"))
    assert (cancelled["name"], cancelled["state"]) == ("jobs/first", "CANCELLED")
    [deleted] = read(run(gateway, "jobs", "delete", "first", "--yes", "--json"))
    assert deleted["name"] == "first"
    assert deleted["objects_deleted"] > 0


def test_a_dead_shards_error_is_shown_whole(
    gateway: GatewayProcess, client: Client, redis_url: str, tmp_path: Path
) -> None:
    client.create_job("shoes", caption_file(tmp_path, 4), preset="tiny")
    planned(client, "shoes")
    queue, error = (
        Queue(redis_url, retry_seconds=0),
        "the pipeline [SD 1.5] failed: " + "very " * 60 + "badly",
    )
    for _ in range(3):
        lease = queue.lease("w", 60)
        assert lease is not None
        queue.fail(lease, error)
    queue.close()
    assert error in run(gateway, "jobs", "shards", "shoes")
    page = run(gateway, "jobs", "show", "shoes")
    assert "stablerep jobs shards shoes --state dead; stablerep jobs retry shoes" in page


def test_verbs_without_a_gateway_print_json_too(store_url: str, tmp_path: Path) -> None:
    def lines(*arguments: str) -> list[dict[str, Any]]:
        result = CliRunner().invoke(app, [*arguments, "--json"])
        assert result.exit_code in (0, 1), result.exception
        return read(result.output)

    tokens = str(tmp_path / "tokens.yaml")
    CliRunner().invoke(app, ["token", "new", "--name", "me", "--role", "read", "--file", tokens])
    assert [token["name"] for token in lines("token", "list", "--file", tokens)] == ["me"]
    assert {"level", "subject", "text", "fix"} == set(lines("doctor")[0])
    [estimate] = lines("estimate", str(caption_file(tmp_path, 10)), "--preset", "tiny")
    assert estimate["estimate"]["images"] == 40
