"""Real gateways and workers whose queue server loses everything in the middle of a job, and the command."""

import asyncio
import signal
import subprocess
import sys

import pytest

from stablerep.client import AsyncClient, Client, JobState
from stablerep.shards.layout import shard_key
from stablerep.storage import open_store
from stablerep.testing.gateway import GatewayProcess
from stablerep.testing.worker import WorkerProcess
from tests.gateways import caption_file, planned, wait_for
from tests.reconciling import caption_ids, is_exact_job, lose_everything

RECIPE = {"steps": 2, "images_per_caption": 2, "batch_images": 4}


@pytest.fixture
def workers(tmp_path, store_url, redis_url):
    """Two workers at work, with leases of 3 s."""
    workers = [
        WorkerProcess(tmp_path / f"worker{n}", store_url=store_url, redis_url=redis_url, lease_seconds=3)
        for n in range(2)
    ]
    yield workers
    for worker in workers:
        worker.end()


def reconcile_command(gateway, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "stablerep", "reconcile", *arguments, "--address", gateway.address],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("redis_kind", ["valkey", "redis"])
@pytest.mark.parametrize("store_url", ["local"], indirect=True)
def test_redis_is_wiped_twice_while_workers_run_and_no_group_is_missing_or_double(
    gateway, client, store_url, redis_server, workers, tmp_path
):
    store = open_store(store_url)
    path = caption_file(tmp_path, 80)
    for name in ("shoes", "paused"):
        client.create_job(name, path, preset="tiny", recipe=RECIPE, captions_per_shard=2)
    planned(client, "paused")
    client.pause_job("paused")
    for seen in (4, 20):
        wait_for(client, "shoes", lambda job, seen=seen: job.counts.done >= seen, 240)
        lose_everything(redis_server)
    job = wait_for(client, "shoes", lambda job: job.done, 240)
    assert (job.state, job.counts.done) == (JobState.SUCCEEDED, 40)
    wait_for(client, "shoes", lambda job: is_exact_job(store, job))
    assert caption_ids(store, "shoes") == list(range(80))
    assert client.get_job("paused").state is JobState.PAUSED
    assert all(worker.wait(0) is None for worker in workers), "no worker ended over it"


@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
def test_the_command_finds_a_truncated_tar_and_workers_make_it_again(
    gateway, client, store_url, workers, tmp_path
):
    store = open_store(store_url)
    client.create_job("shoes", caption_file(tmp_path, 12), preset="tiny", recipe=RECIPE, captions_per_shard=2)
    wait_for(client, "shoes", lambda job: job.done, 240)
    sound = reconcile_command(gateway, "shoes", "--verify")
    assert (sound.returncode, sound.stderr) == (0, "")
    whole = store.get(shard_key("shoes", 3))
    store.put(shard_key("shoes", 3), whole[:2000])
    found = reconcile_command(gateway)
    assert found.returncode == 3, found.stderr
    (row,) = [line.split() for line in found.stdout.splitlines() if line.startswith("jobs/shoes ")]
    assert row == ["jobs/shoes", "RUNNING", "5/6", "0", "0", "1", "0"]
    job = wait_for(client, "shoes", lambda job: job.done, 240)
    assert job.state is JobState.SUCCEEDED
    assert is_exact_job(store, job)
    assert store.get(shard_key("shoes", 3)) == whole
    assert reconcile_command(gateway, "nothing").returncode == 1

    async def asked():
        async with AsyncClient(gateway.address) as other:
            return [each async for each in other.reconcile(verify=True)]

    (found,) = asyncio.run(asked())
    assert found.sound
    assert (found.name, found.done, found.shards) == ("jobs/shoes", 6, 6)


@pytest.mark.parametrize("store_url", ["local"], indirect=True)
def test_a_half_planned_job_goes_on_being_planned_after_gateway_and_redis_died(
    gateway, store_url, redis_server, tmp_path
):
    path = caption_file(tmp_path, 12_000)
    with Client(gateway.address) as client:
        client.create_job("half", path, preset="tiny", captions_per_shard=2)
        wait_for(client, "half", lambda job: job.counts.shards > 0)
    gateway.end(signal.SIGKILL)
    lose_everything(redis_server)
    second = GatewayProcess(tmp_path / "second", store_url, redis_server.url)
    with second, Client(second.address) as client:
        job = planned(client, "half")
        assert (job.counts.shards, job.counts.pending, job.counts.captions) == (6_000, 6_000, 12_000)
