"""Caption files on their way through the command line and a real gateway: what users are told of each."""

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from stablerep.cli import app
from stablerep.client import Client, JobState
from stablerep.errors import InvalidInput
from stablerep.storage import open_store
from stablerep.testing.gateway import GatewayProcess
from tests.gateways import lease_all, planned, planned_captions

pytestmark = pytest.mark.parametrize("store_url", ["local"], indirect=True)


def submit(gateway: GatewayProcess, *arguments: str) -> tuple[int, str]:
    options = ["--preset", "tiny", "--address", gateway.address]
    result = CliRunner().invoke(app, ["submit", *arguments, *options])
    return result.exit_code, f"{result.output}{result.exception or ''}"


def test_a_doubled_column_fails_the_job_and_ends_the_watch(
    gateway: GatewayProcess, client: Client, store_url: str, tmp_path: Path
) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["caption", "caption"])
    pq.write_table(table, tmp_path / "doubled.parquet")
    open_store(store_url).put("doubled.parquet", tmp_path / "doubled.parquet")
    status, printed = submit(gateway, "store:doubled.parquet", "--name", "there", "--watch")
    assert status == 2
    assert "FAILED" in printed
    assert "2 columns are named 'caption'" in printed
    status, printed = submit(gateway, str(tmp_path / "doubled.parquet"), "--name", "here")
    assert status != 0
    assert "2 columns are named 'caption'" in printed
    assert [job.dataset for job in client.list_jobs()] == ["there"]
    assert [*open_store(store_url).list("uploads/")] == []


def test_submit_says_what_it_understood_and_the_end_what_was_skipped_and_why(
    gateway: GatewayProcess, client: Client, redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_bytes(b"id;Caption\n1;a red, shiny shoe\n2;caf\xe9\n3;\n")
    status, printed = submit(gateway, str(tmp_path / "a.csv"), "--name", "told")
    assert status == 0
    for words in ("csv, utf-8, separated by semicolons", "column 'Caption'", "  a red, shiny shoe"):
        assert words in printed
    assert "3 records, 1 captions, 1 empty, 1 with bytes that are no text" in printed
    planned(client, "told")
    lease_all(redis_url)
    result = CliRunner().invoke(app, ["jobs", "watch", "told", "--address", gateway.address])
    assert "SUCCEEDED" in result.output
    assert "1 captions, 1 empty, 1 with bytes that are no text" in result.output


def test_what_the_gateway_would_refuse_is_refused_before_the_upload(
    gateway: GatewayProcess, client: Client, store_url: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a shoe\n")
    asked: dict[str, Any]
    for field, asked in (
        ("dataset", {"dataset": "Not A Name"}),
        ("priority", {"priority": "high"}),
        ("priority", {"priority": 10}),
        ("preset", {"preset": "nope"}),
        ("recipe.stepz", {"recipe": {"stepz": 1}}),
        ("recipe.steps", {"recipe": {"steps": "many"}}),
        ("source.limit", {"limit": -1}),
        ("captions_per_shard", {"captions_per_shard": -3}),
    ):
        with pytest.raises(InvalidInput) as caught:
            client.create_job(
                **{"dataset": "good", "captions": tmp_path / "a.txt", "preset": "tiny", **asked}
            )
        assert caught.value.field == field
    assert [*open_store(store_url).list("uploads/")] == []


def test_many_files_of_any_format_are_one_source_here_and_in_the_store(
    client: Client, store_url: str, tmp_path: Path
) -> None:
    store = open_store(store_url)
    for number in range(3):
        pq.write_table(pa.table({"TEXT": [f"p{number}", None]}), tmp_path / f"part-{number:05d}.parquet")
        lines = f'{{"caption": "j{number}"}}\n{{}}\n'.encode()
        (tmp_path / f"{number}.jsonl.gz").write_bytes(gzip.compress(lines))
        store.put(f"parts/part-{number:05d}.parquet", tmp_path / f"part-{number:05d}.parquet")
        store.put(f"parts/{number}.jsonl.gz", tmp_path / f"{number}.jsonl.gz")
    for pattern, letter in (("part-{00000..00002}.parquet", "p"), ("*.jsonl.gz", "j")):
        for name, where in (("here", str(tmp_path / pattern)), ("there", f"store:parts/{pattern}")):
            job = planned(client, client.create_job(f"{letter}-{name}", where, preset="tiny").name)
            assert (job.state, job.caption_report["lines"]) == (JobState.RUNNING, 6)
            wanted = [(2 * number, f"{letter}{number}") for number in range(3)]
            assert [
                caption for shard in planned_captions(store_url, job.dataset) for caption in shard
            ] == wanted


def test_standard_input_and_pipes(
    gateway: GatewayProcess, client: Client, store_url: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "stablerep", "submit", "-", "--preset", "tiny"]
    command += ["--address", gateway.address, "--name"]
    lines = b"a shoe\na boot\n"
    piped = subprocess.run([*command, "piped", "--format", "text"], input=gzip.compress(lines), check=True)
    assert piped.returncode == 0
    refused = subprocess.run([*command, "refused"], input=lines, capture_output=True, text=False)
    assert refused.returncode != 0
    assert b"give its format" in refused.stderr + refused.stdout
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = subprocess.Popen(["/bin/sh", "-c", f"printf 'a shoe\\na boot\\n' > {fifo}"])
    client.create_job("fifo", fifo, format="text", preset="tiny")
    assert writer.wait() == 0
    for name in ("piped", "fifo"):
        assert planned(client, name).state is JobState.RUNNING
        assert planned_captions(store_url, name) == [[(0, "a shoe"), (1, "a boot")]]


def test_a_header_can_be_settled_by_hand(client: Client, store_url: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Beschreibung\nein roter Schuh\n")
    with pytest.raises(InvalidInput, match="header"):
        client.create_job("asked", tmp_path / "a.csv", preset="tiny")
    for name, header, wanted in (("yes", True, 1), ("no", False, 2)):
        job = client.create_job(name, tmp_path / "a.csv", preset="tiny", header=header)
        assert job.source["header"] is header
        planned(client, name)
        assert len(planned_captions(store_url, name)[0]) == wanted
