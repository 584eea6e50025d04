"""Gateways killed while they plan, again and again: every caption in one shard, none twice, none missing."""

import random
import signal
import time

import pytest

from stablerep.client import Client, JobState
from stablerep.shards.layout import captions_prefix
from stablerep.storage import open_store
from stablerep.testing.gateway import GatewayProcess
from tests.gateways import caption_file, lease_all, planned, planned_captions, wait_for

LOCAL = pytest.mark.parametrize("store_url", ["local"], indirect=True)
KILLS = 3


def captions_objects(store_url, dataset):
    """Every captions object's bytes, in order."""
    store = open_store(store_url)
    return [store.get(info.key) for info in store.list(captions_prefix(dataset))]


def advanced(gateway, seen):
    """The job once it has more than `seen` shards, or is planned."""
    with Client(gateway.address) as client:
        return wait_for(
            client, "killed", lambda job: job.counts.shards > seen or job.state is not JobState.PLANNING
        )


@LOCAL
def test_killed_many_times_the_plan_is_the_undisturbed_one(store_url, redis_url, tmp_path):
    """Two replicas; the one at work is killed at random points, and at times both."""
    chance = random.Random(7)
    path = caption_file(tmp_path, 40_000, words=12)
    replicas = [GatewayProcess(tmp_path / f"gateway{n}", store_url, redis_url) for n in range(2)]
    for replica in replicas:
        replica.start()
    try:
        with Client(replicas[0].address) as client:
            client.create_job("killed", path, preset="tiny", captions_per_shard=4)
        seen = kills = 0
        while True:
            alive = next((replica for replica in replicas if replica.running), None)
            if alive is None:
                replicas[chance.randrange(2)].start()
                continue
            job = advanced(alive, seen)
            if job.state is not JobState.PLANNING:
                break
            seen = job.counts.shards
            if kills < KILLS:
                kills += 1
                time.sleep(chance.random() * 0.2)
                for replica in replicas if chance.random() < 0.3 else [alive]:
                    replica.end(signal.SIGKILL)
                for replica in replicas:
                    if not replica.running and chance.random() < 0.7:
                        replica.start()
        assert kills == KILLS, "planned before it could be killed often enough"
        alive = next(replica for replica in replicas if replica.running)
        with Client(alive.address) as client:
            client.create_job("undisturbed", path, preset="tiny", captions_per_shard=4)
            assert planned(client, "undisturbed", 120).counts.shards == 10_000
            job = client.get_job("killed")
    finally:
        for replica in replicas:
            replica.end(signal.SIGKILL)
    assert (job.counts.shards, job.counts.captions, job.counts.pending) == (10_000, 40_000, 10_000)
    assert job.caption_report["captions"] == 40_000
    killed = captions_objects(store_url, "killed")
    assert killed == captions_objects(store_url, "undisturbed")
    texts = [text for shard in planned_captions(store_url, "killed") for _, text in shard]
    assert texts == path.read_text().splitlines()


@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
def test_killed_while_planning_into_s3(store_url, redis_url, tmp_path):
    path = caption_file(tmp_path, 1_600)
    with GatewayProcess(tmp_path / "gateway", store_url, redis_url) as gateway:
        with Client(gateway.address) as client:
            client.create_job("killed", path, preset="tiny", captions_per_shard=1)
            job = wait_for(client, "killed", lambda job: job.counts.shards > 0)
        gateway.end(signal.SIGKILL)
        assert (job.state, job.counts.shards < 1_600) == (JobState.PLANNING, True)
        gateway.start()
        with Client(gateway.address) as client:
            job = planned(client, "killed", 120)
    assert (job.counts.shards, job.counts.pending, job.counts.captions) == (1_600, 1_600, 1_600)
    texts = [text for shard in planned_captions(store_url, "killed") for _, text in shard]
    assert texts == path.read_text().splitlines()
    assert lease_all(redis_url) == list(range(1_600))
