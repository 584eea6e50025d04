"""Jobs on a real cluster while pods are scaled, killed and replaced: no group is lost, none is made twice."""

import re
from collections.abc import Callable, Iterator

import httpx
import pytest
from minio import Minio

from stablerep.client import Client, Job, JobState
from tests.cluster.kube import Release, name_of, run, until
from tests.cluster.stored import BUCKET, etags, problems
from tests.consoles import chromium, csrf_of, submit_and_look, watched
from tests.paths import ROOT

pytestmark = pytest.mark.timeout(1200)
IMAGES = 4
CAPTIONS = [f"a {colour} shoe number {n}" for n in range(16) for colour in ("red", "blue", "green", "black")]


@pytest.fixture
def client(release: Release) -> Iterator[Client]:
    with release.client() as client:
        yield client


@pytest.fixture
def minio(release: Release) -> Iterator[Minio]:
    with release.minio() as minio:
        yield minio


@pytest.fixture
def submit(client: Client, tmp_path) -> Callable[..., Job]:
    """A job of the small pipeline in the images: 16 shards of a few seconds each."""

    def create(name: str) -> Job:
        file = tmp_path / "captions.txt"
        file.write_text("".join(f"{caption}\n" for caption in CAPTIONS))
        recipe = {"images_per_caption": IMAGES, "batch_images": 16, "steps": 30}
        return client.create_job(name, file, preset="tiny", recipe=recipe, captions_per_shard=4)

    return create


def finished(client: Client, name: str, seconds: float = 600) -> Job:
    return list(client.watch_job(name, timeout=seconds))[-1]


def in_mid_job(client: Client, name: str, shards: int = 2) -> Job:
    return until(
        f"{shards} shards of {name} are done",
        lambda: (job := client.get_job(name)).counts.done >= shards and not job.done and job,
    )


def check(minio: Minio, job: Job) -> None:
    """The job has succeeded, and every caption has its group, once and whole."""
    assert job.state == JobState.SUCCEEDED, job.error
    assert job.counts.groups == len(CAPTIONS)
    assert job.counts.images == len(CAPTIONS) * IMAGES
    assert problems(minio, job.dataset, CAPTIONS, IMAGES) == []


def test_a_job_from_outside_finishes(client: Client, minio: Minio, submit: Callable[..., Job]) -> None:
    submit("first")
    check(minio, finished(client, "first"))


def test_the_console_shows_the_dataset_and_has_a_group_made_again(release: Release, tmp_path) -> None:
    """Signed in with the first token, through the console's Service and under its network policy."""
    token = release.secret(f"{release.name}-stablerep-tokens", "token")
    with (
        release.reach(release.object("console"), 80) as address,
        httpx.Client(base_url=f"http://{address}", follow_redirects=True, timeout=300) as browser,
    ):
        assert browser.get("/jobs").url.path == "/sign-in"
        sent = {"token": token, "csrf": csrf_of(browser, "/sign-in"), "next": "/jobs"}
        assert ">first<" in browser.post("/sign-in", data=sent).text
        shown = browser.get("/datasets/first.json").json()
        assert (shown["count"], shown["images"]) == (len(CAPTIONS), len(CAPTIONS) * IMAGES)
        path = f"/datasets/first/captions/{shown['groups'][0]['group']['caption_id']}"
        made = browser.post(f"{path}/remake.json", data={"csrf": csrf_of(browser, path)})
        assert made.json()["equal"] == [True] * IMAGES, made.text
        assert browser.get("/system.json").json()["workers"]
        few = tmp_path / "few.txt"
        few.write_text("a red shoe\na blue bag\na green coat\n")
        url = f"http://{address}"
        with chromium() as chrome, watched(chrome, at=url.removesuffix(":80")) as page:
            page.goto(f"{url}/jobs")
            page.get_by_label("Token").fill(token)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url("**/jobs")
            submit_and_look(page, url, few, "browsed", preset="flat", seconds=300)


COMPILE = """
from importlib.util import find_spec
import torch
from stablerep.building import missing_to_build
compiled = torch.compile(lambda x: (x + 1).sum()) if find_spec("triton") else None
print("no compiler" if compiled is None else (missing_to_build(), compiled(torch.ones(3)).item()))
"""


def test_torch_compiles_in_a_pod(release: Release) -> None:
    """With a read-only root, no capabilities, and /tmp alone to write to."""
    (pod,) = release.ready("generator")
    printed = release.kubectl("exec", pod, "--", "python", "-c", COMPILE).strip()
    if printed == "no compiler":
        pytest.skip("no compiler: these images have torch's CPU build")
    assert printed == "('', 6.0)"


def test_scaling_up_and_down_in_mid_job(
    release: Release, client: Client, minio: Minio, submit: Callable[..., Job]
) -> None:
    submit("scaled")
    in_mid_job(client, "scaled", 1)
    deployment = f"deployment/{release.object('generator')}"
    release.kubectl("scale", deployment, "--replicas=3")
    until("three workers are ready", lambda: len(release.ready("generator")) == 3)
    before = client.get_job("scaled").counts
    release.kubectl("scale", deployment, "--replicas=1")
    until("one worker is left", lambda: len(release.pods("generator")) == 1)
    job = finished(client, "scaled")
    check(minio, job)
    shards = list(client.list_shards("scaled"))
    assert sum(shard.lost_leases for shard in shards) == 0, "workers that are told to go hand shards back"
    assert before.done < before.shards, "the job was still under way"


def test_a_worker_killed_in_mid_shard(
    release: Release, client: Client, minio: Minio, submit: Callable[..., Job]
) -> None:
    submit("killed")
    in_mid_job(client, "killed")
    done = etags(minio, "killed")
    (pod,) = release.ready("generator")
    leased = until("a shard is leased", lambda: list(client.list_shards("killed", "leased")))
    assert leased
    release.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
    check(minio, finished(client, "killed"))
    now = etags(minio, "killed")
    assert {name: now[name] for name in done} == done, "no shard that was there was written again"


def test_a_redis_that_loses_its_volume(
    release: Release, client: Client, minio: Minio, submit: Callable[..., Job]
) -> None:
    submit("forgotten")
    in_mid_job(client, "forgotten")
    done = etags(minio, "forgotten")
    pod = release.pods("redis")[0]
    assert "data" in {volume["name"] for volume in pod["spec"]["volumes"] if "emptyDir" in volume}
    release.kubectl("delete", "pod", name_of(pod), "--grace-period=0", "--force")
    until("Redis is back", lambda: release.ready("redis"))
    check(minio, finished(client, "forgotten"))
    now = etags(minio, "forgotten")
    assert {name: now[name] for name in done} == done


def test_an_upgrade_and_a_rollback_in_mid_job(
    release: Release, client: Client, minio: Minio, submit: Callable[..., Job]
) -> None:
    submit("upgraded")
    in_mid_job(client, "upgraded", 1)
    pods = set(release.ready("gateway"))
    release.upgrade("--set", "settings.log_level=DEBUG", "--set", "settings.generator.lease_seconds=20")
    until("new gateways", lambda: len(set(release.ready("gateway")) - pods) == 2)
    release.helm("rollback", release.name, "1", "--wait", "--timeout", "8m")
    check(minio, finished(client, "upgraded"))
    for name in ("first", "upgraded"):
        assert client.get_job(name).state == JobState.SUCCEEDED
        assert problems(minio, name, CAPTIONS, IMAGES) == []


def test_two_gateways_answer_behind_one_service(release: Release, client: Client) -> None:
    """New connections reach both, and each knows every job; one that is killed is not missed."""
    gateways = release.ready("gateway")
    assert len(gateways) == 2
    for _ in range(20):
        with release.client() as other:
            assert other.get_job("first").state == JobState.SUCCEEDED
    answered = {pod for pod in gateways if re.search(r"GetJob.*OK", calls(release, pod))}
    assert answered == set(gateways)
    release.kubectl("delete", "pod", gateways[0], "--grace-period=0", "--force")
    with release.client() as other:
        assert other.get_job("first").state == JobState.SUCCEEDED
    until("two gateways again", lambda: len(release.ready("gateway")) == 2)


def calls(release: Release, pod: str) -> str:
    """Counters of gRPC calls of one gateway."""
    with release.forward(f"pod/{pod}", 9100) as address:
        text = run("curl", "-fsS", f"http://{address}/metrics")
    handled = (line for line in text.splitlines() if line.startswith("grpc_server_handled_total"))
    return "\n".join(
        " ".join(re.findall(r'grpc_(?:method|code)="(\w+)"', line)[::-1])
        for line in handled
        if not line.endswith(" 0.0")
    )


def test_weights_from_the_store(release: Release, client: Client, minio: Minio, tmp_path) -> None:
    """An init container copies a pipeline's folder, and a recipe names it."""
    folder = ROOT / "stablerep/assets/fashion_pipeline"
    for path in folder.rglob("*"):
        if path.is_file():
            minio.fput_object(BUCKET, f"models/mine/{path.relative_to(folder)}", str(path))
    models = "settings.gateway.models={builtin:*,/models/*}"
    release.upgrade("--set", "generator.models.storePrefix=models/", "--set", models)
    (pod,) = release.pods("generator")
    assert "files of" in release.kubectl("logs", name_of(pod), "-c", "models")
    file = tmp_path / "captions.txt"
    file.write_text("a red shoe\na blue bag\n")
    recipe = {"model": "/models/mine", "images_per_caption": IMAGES, "batch_images": 8, "steps": 4}
    client.create_job("own-weights", file, preset="tiny", recipe=recipe)
    job = finished(client, "own-weights")
    assert job.state == JobState.SUCCEEDED, job.error
    assert problems(minio, "own-weights", ["a red shoe", "a blue bag"], IMAGES) == []
    release.upgrade()
