"""What the gateway says of captions before a job, and of its workers: over real gRPC, with a real queue."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stablerep.client import Client, JobState
from stablerep.errors import InvalidInput
from stablerep.queue.client import Queue
from stablerep.queue.stats import SEEN_SECONDS
from stablerep.queue.workers import WorkerReport, report_worker
from stablerep.storage import open_store
from tests.fronts import served


def report(name: str, age: float = 0.0) -> WorkerReport:
    return WorkerReport(
        name=name,
        state="GENERATING",
        shard="jobs/shoes/shards/7",
        shards_done=3,
        images_done=768,
        images_per_second=4.25,
        card="NVIDIA H200",
        model="builtin:fashion",
        address="10.0.0.7:50052",
        version="0.1.0",
        time=datetime.now(UTC) - timedelta(seconds=age),
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_captions_are_described_before_a_job_and_used_by_it(tmp_path: Path, redis_url: str) -> None:
    path = tmp_path / "products.tsv"
    path.write_text("id\tcaption\n1\ta red shoe\n2\t\n3\ta blue bag\n" + "4\t" + "x" * 1001 + "\n")
    with served(tmp_path, redis_url) as fronts, Client(fronts.gateway) as client:
        upload = client.upload_captions(path)
        found = client.describe_captions(f"upload:{upload}")
        assert (found.format, found.column, found.header) == ("tsv", "caption", True)
        assert found.first == ("a red shoe", "a blue bag")
        assert (found.report.captions, found.report.empty, found.report.too_long) == (2, 1, 1)
        assert found.whole
        assert list(client.list_jobs()) == []
        job = client.create_job("shoes", f"upload:{upload}", preset="tiny")
        while (job := client.get_job(job.name)).state is JobState.PLANNING:
            time.sleep(0.05)
        assert job.counts.captions == 2
        open_store((tmp_path / "store").as_uri()).put("lists/a.txt", b"a hat\n")
        assert client.describe_captions("store:lists/a.txt").first == ("a hat",)
        for wrong, field in (("store:lists/b.txt", "source.uri"), ("http://127.0.0.1:1/a.txt", "source.uri")):
            with pytest.raises(InvalidInput) as caught:
                client.describe_captions(wrong)
            assert caught.value.field == field
        with pytest.raises(InvalidInput, match="no upload:ID"):
            client.describe_captions("products.tsv")
        with pytest.raises(InvalidInput) as caught:
            client.describe_captions(f"upload:{upload}", column="title")
        assert "title" in str(caught.value)


def test_workers_are_listed_while_they_report(tmp_path: Path, redis_url: str) -> None:
    queue = Queue(redis_url)
    report_worker(queue, report("b"))
    report_worker(queue, report("a"))
    report_worker(queue, report("old", SEEN_SECONDS + 1))
    queue.run_script("workers", "strange", '{"name": "strange"}')
    queue.run_script("workers", "torn", '{"name": "to')
    with served(tmp_path, redis_url) as fronts, Client(fronts.gateway) as client:
        found = client.list_workers()
        assert [worker.name for worker in found] == ["a", "b"]
        assert (found[0].card, found[0].images_per_second, found[0].shard) == (
            "NVIDIA H200",
            4.25,
            "jobs/shoes/shards/7",
        )
        assert sorted(queue.run_script("workers")[::2]) == ["a", "b"]
        wait_until(lambda: queue.epoch() is not None)
        queue.deregister_worker("a")
        assert [worker.name for worker in client.list_workers()] == ["b"]
    queue.close()
