"""Captions sent to a real gateway and planned by it, whatever is killed meanwhile."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from stablerep.client import Client, JobState
from stablerep.client.upload import upload_id, upload_messages
from stablerep.shards.layout import upload_prefix
from stablerep.storage import open_store
from stablerep.testing.gateway import GatewayProcess
from stablerep.v1 import generation_pb2 as pb
from stablerep.v1 import generation_pb2_grpc as rpc
from tests.gateways import caption_file, lease_all, planned, planned_captions, wait_for

LOCAL = pytest.mark.parametrize("store_url", ["local"], indirect=True)
"""For tests that would prove nothing more on a second store."""


def test_upload_larger_than_a_grpc_message_is_planned_whole(
    client: Client, store_url: str, tmp_path: Path
) -> None:
    path = caption_file(tmp_path, 22_000, words=95)
    assert path.stat().st_size > 10_000_000
    seen: list[tuple[int, int]] = []
    job = client.create_job(
        "large", path, preset="tiny", captions_per_shard=1000, progress=lambda *at: seen.append(at)
    )
    job = planned(client, job.name, 120)
    assert (job.state, job.counts.shards, job.counts.captions) == (JobState.RUNNING, 22, 22_000)
    texts = [text for shard in planned_captions(store_url, "large") for _, text in shard]
    assert texts == path.read_text().splitlines()
    assert [sent for sent, _ in seen] == sorted(sent for sent, _ in seen)
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


@LOCAL
def test_broken_upload_is_resumed_where_it_stopped(
    gateway: GatewayProcess, client: Client, store_url: str, tmp_path: Path
) -> None:
    path = caption_file(tmp_path, 25_000, words=95)
    identifier = upload_id(path)

    def half() -> Iterator[pb.UploadCaptionsRequest]:
        """Sends nine pieces of a mebibyte; the gateway dies once it has stored a part."""
        for number, message in enumerate(upload_messages(path, identifier, 0, None)):
            if number == 9:
                while not any(open_store(store_url).list(upload_prefix(identifier))):
                    time.sleep(0.01)
                gateway.end(signal.SIGKILL)
            yield message

    with grpc.insecure_channel(gateway.address) as channel, pytest.raises(grpc.RpcError):
        rpc.GenerationServiceStub(channel).UploadCaptions(half())
    gateway.start()
    sent: list[int] = []
    job = client.create_job(
        "resumed", path, preset="tiny", captions_per_shard=5000, progress=lambda at, _: sent.append(at)
    )
    assert sent[0] > 8 << 20, "the part that was stored is not sent again"
    planned(client, job.name)
    texts = [text for shard in planned_captions(store_url, "resumed") for _, text in shard]
    assert texts == path.read_text().splitlines()
    sent.clear()
    assert client.upload_captions(path, progress=lambda at, _: sent.append(at)) == identifier
    assert sent == []


@LOCAL
def test_sigterm_while_planning_leaves_the_job_to_the_next_gateway(
    gateway: GatewayProcess, client: Client, store_url: str, tmp_path: Path
) -> None:
    client.create_job("stopped", caption_file(tmp_path, 10_000), preset="tiny", captions_per_shard=1)
    wait_for(client, "stopped", lambda job: job.counts.shards >= 500)
    begun = time.monotonic()
    assert gateway.end(signal.SIGTERM) == 0
    assert time.monotonic() - begun < 10
    assert "Traceback" not in gateway.log
    written = len(planned_captions(store_url, "stopped"))
    assert 500 <= written < 10_000
    gateway.start()
    assert planned(client, "stopped").counts.shards == 10_000


@LOCAL
def test_two_gateways_plan_one_job_once(
    gateway: GatewayProcess, client: Client, store_url: str, redis_url: str, tmp_path: Path
) -> None:
    with GatewayProcess(tmp_path / "second", store_url, redis_url) as second, Client(second.address) as other:
        path = caption_file(tmp_path, 400)
        job = client.create_job("replicas", path, preset="tiny", captions_per_shard=1)
        assert other.create_job("replicas", path, preset="tiny", captions_per_shard=1).name == job.name
        assert planned(other, job.name).counts.shards == 400
    assert lease_all(redis_url) == list(range(400))


@LOCAL
def test_unusable_captions_fail_the_job_with_the_reason(client: Client, store_url: str) -> None:
    open_store(store_url).put("empty.txt", b"\n \n\n")
    job = client.create_job("unusable", "store:empty.txt", preset="tiny")
    *_, job = client.watch_job(job.name)
    assert job.state is JobState.FAILED
    assert job.done
    assert "caption" in job.error
