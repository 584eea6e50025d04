"""What nobody foresaw reaches the user: an unexpected error in planning, settings with a line end, doctor."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from services.gateway.background import Planners
from stablerep.client import Client, JobState
from stablerep.config.recipe import load_recipe
from stablerep.config.settings import load_settings
from stablerep.doctor import check_machine
from stablerep.errors import InvalidInput
from stablerep.jobs.job import CaptionSource, JobSpec
from stablerep.jobs.planning import plan as planning
from stablerep.jobs.planning.create import create_job
from stablerep.jobs.view import job_view
from stablerep.queue.client import Queue
from stablerep.storage import open_store
from stablerep.testing.gateway import GatewayProcess
from tests.gateways import caption_file, planned


def test_an_unexpected_error_in_planning_fails_the_job_with_a_number(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, queue = open_store(tmp_path / "store"), Queue(redis_url)
    queue.begin_epoch()
    store.put("captions.txt", b"a shoe\n")
    for name in ("breaks", "works"):
        spec = JobSpec(name, load_recipe("tiny"), CaptionSource(uri="captions.txt"), 4)
        create_job(store, queue, spec)
    write_description = planning.write_description

    def break_once(store, record, *planned):  # type: ignore[no-untyped-def]
        if record.spec.dataset == "breaks":
            raise KeyError("nobody foresaw this")
        write_description(store, record, *planned)

    monkeypatch.setattr(planning, "write_description", break_once)

    async def run() -> None:
        async with Planners(store, queue, threads=1) as planners:
            while any(queue.state(name) is JobState.PLANNING for name in ("breaks", "works")):
                await asyncio.sleep(0.05)
            assert planners.problem() == ""

    asyncio.run(asyncio.wait_for(run(), 60))
    assert queue.state("works") is JobState.RUNNING
    job = job_view(store, queue, "breaks")
    assert job.state is JobState.FAILED
    number = re.search(
        r"unexpected error ([0-9a-f]{12}) while planning \(KeyError: 'nobody foresaw this'\)", job.error
    )
    assert number
    logged = next(record for record in caplog.records if number[1] in record.getMessage())
    assert logged.exc_info
    queue.close()


@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
def test_secrets_with_a_line_end_behind_them_work(
    store_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a Secret has it that was made with `echo`."""
    environment = {
        name: f" {value}\n"
        for name, value in os.environ.items()
        if re.fullmatch(r"STABLEREP_S3_.*(KEY|ENDPOINT)", name)
    }
    assert len(environment) >= 3
    process = GatewayProcess(tmp_path / "gateway", f"{store_url}\n", f"{redis_url}\n", **environment)
    with process as gateway, Client(gateway.address) as client:
        job = client.create_job("shoes", caption_file(tmp_path, 10), preset="tiny")
        assert planned(client, job.name).state is JobState.RUNNING


@pytest.mark.parametrize("name", ["STORE_URL", "S3__SECRET_KEY", "REDIS_URL", "GATEWAY__ADDRESS"])
def test_a_line_end_inside_a_setting_is_refused_without_showing_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"STABLEREP_{name}", "first\nsecond")
    with pytest.raises(InvalidInput, match="line end") as caught:
        load_settings()
    assert "second" not in str(caught.value)
    assert caught.value.field.replace(".", "__").upper() == name


def test_doctor_turns_whatever_goes_wrong_into_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr("shutil.disk_usage", broken)
    findings = list(check_machine("http://127.0.0.1:50051"))
    faults = {finding.subject: finding.text for finding in findings if finding.level == "fault"}
    assert "RuntimeError: no such luck" in faults["disk"]
    assert "leave out http://" in faults["gateway"]
    assert any(finding.subject == "settings" for finding in findings)


def test_captions_and_names_outside_the_locales_letters(tmp_path: Path) -> None:
    """As in a container without a locale: files are read as UTF-8, and nothing that is printed breaks."""
    (tmp_path / "captions.txt").write_text("ein schöner Schuh\n靴\n", encoding="utf-8")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [
        sys.executable,
        "-m",
        "stablerep",
        "estimate",
        str(tmp_path / "captions.txt"),
        "--preset",
        "tiny",
    ]
    run = subprocess.run(command, env=environment, capture_output=True)
    assert run.returncode == 0, run.stderr
    assert b"Traceback" not in run.stderr
    assert rb"\u9774" in run.stdout
    strange = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    Path(os.fsdecode(strange)).write_text("a shoe\n")
    submit = [
        os.fsencode(sys.executable),
        b"-m",
        b"stablerep",
        b"submit",
        strange,
        b"--name",
        b"x",
        b"--preset",
        b"tiny",
    ]
    run = subprocess.run(submit, env=environment, capture_output=True)
    assert run.returncode == 1
    assert b"Traceback" not in run.stderr
    assert b"not UTF-8" in run.stderr
