"""Brings docker-compose.yml up for real and tries to lose data (`make test-compose`).

Builds the images, submits a job from this machine, scales to three workers, kills one in mid-job, takes the
whole service down in the middle of a second job and up again, and then counts every group in MinIO. Exit
status 0 when none is missing, doubled or made twice; 3 where no Docker engine can be had.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from engine import Engine, EngineMissing, docker_engine
from groups import Stored, compare, read_stored
from images import ImageMissing, compose_variables
from stack import BUCKET, ROOT, Stack
from transcript import CommandFailed, run, say

sys.path.insert(0, str(ROOT))  # a page is looked at as the tests of the console do

from stablerep.client import Client, Job
from tests.consoles import chromium, submit_and_look, watched

CACHE = ROOT / ".cache" / "compose-test"
OURS = ("gateway", "generator", "trainer")
IMAGES_PER_CAPTION = 4
CAPTIONS_PER_SHARD = 16  # times 4 images: one batch of the preset
WAIT_SECONDS = 600.0
MAX_REDELIVERY_SECONDS = 120.0
"""A lease of 60 s, the look for expired ones, and the shard made again on a busy machine."""


class Lost(Exception):
    """The service did not do what it promises; the text says what."""


def main() -> int:
    """Runs the whole test; everything it started is stopped again, images stay for the next time."""
    parser = argparse.ArgumentParser(prog="python scripts/compose_test", description=__doc__)
    parser.add_argument("--captions", type=int, default=1000, help="captions of each of the two jobs")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        with docker_engine(CACHE) as engine:
            test(engine, arguments.captions)
    except (EngineMissing, ImageMissing) as error:
        print(f"NOT TESTED: docker-compose.yml ({error})")
        return 3
    except (CommandFailed, Lost) as error:
        say(f"FAILED: {error}")
        return 1
    say("passed; the images stay for the next time (docs/deploy.md says how to remove them)")
    return 0


def test(engine: Engine, count: int) -> None:
    """The scenario; its steps are the lines of the transcript."""
    stack = Stack.create(engine, images(engine))
    CACHE.mkdir(parents=True, exist_ok=True)
    try:
        build(stack)
        up(stack)
        with tempfile.TemporaryDirectory(prefix="stablerep-compose-") as folder:
            captions = write_captions(Path(folder) / "captions.txt", count)
            submit(stack, Path(folder) / "captions.txt", "killed")
            scale(stack)
            shard, killed = kill_one(stack)
            watch(stack, "killed")
            redelivered(stack, shard, killed)
            first = check(stack, "killed", captions)
            look(stack, "killed", first)
            browse(stack, Path(folder))
            train(stack, "killed")
            build_kernels(stack)
            submit(stack, Path(folder) / "captions.txt", "restarted")
            restart(stack)
            watch(stack, "restarted")
            check(stack, "restarted", captions)
        unchanged(first, check(stack, "killed", captions), "the finished dataset")
        measure(stack)
    except BaseException:
        keep_logs(stack)
        raise
    finally:
        stack.down("--volumes", "--remove-orphans")


def images(engine: Engine) -> dict[str, str]:
    """Variables that name images which can be had here."""
    servers = {name: service(engine, {}, name)["image"] for name in ("redis", "minio", "prometheus")}
    return compose_variables(engine, service(engine, {}, "gateway")["build"]["args"]["BASE"], servers)


def service(engine: Engine, variables: Mapping[str, str], name: str) -> dict[str, Any]:
    """What compose makes of a service of the file."""
    environment = {**engine.environment, **variables}
    text = run([*engine.compose, "config", "--format", "json"], environment=environment, folder=ROOT)
    found: dict[str, Any] = json.loads(text)["services"][name]
    return found


def build(stack: Stack) -> None:
    """The images of ours, with their sizes."""
    start = time.monotonic()
    if stack.engine.is_ours:
        keep_stages(stack)
    for name in OURS:  # one after the other: the second of two that share a layer takes it from the first
        stack.compose("build", name, log=CACHE / "build.log", timeout=3600)
    say(f"  built in {time.monotonic() - start:.0f} s")
    for name in OURS:
        size = int(
            stack.engine.docker("image", "inspect", "--format", "{{.Size}}", f"stablerep-{name}:local")
        )
        say(f"  stablerep-{name}: {size / 1e6:,.0f} MB")
    if stack.engine.is_ours:
        stack.engine.docker("image", "prune", "--force")


def keep_stages(stack: Stack) -> None:
    """Names the stages with the dependencies, so that those of former runs can be removed."""
    for name in OURS:
        arguments = ["build", "--target", "code", "--tag", f"stablerep-test-{name}-code:local"]
        arguments += ["--file", str(ROOT / f"deploy/docker/{name}.Dockerfile")]
        for key, value in service(stack.engine, stack.variables, name)["build"]["args"].items():
            arguments += ["--build-arg", f"{key}={value}"]
        stack.engine.docker(*arguments, str(ROOT), log=CACHE / f"build-{name}.log", timeout=3600)


def up(stack: Stack) -> None:
    """Everything started and healthy."""
    start = time.monotonic()
    stack.compose("up", "--detach", "--wait", log=CACHE / "up.log")
    say(f"  all healthy after {time.monotonic() - start:.0f} s: {', '.join(sorted(stack.memory()))}")


def write_captions(path: Path, count: int) -> list[str]:
    """`count` different lines, as a user would have them in a file."""
    lines = (ROOT / "stablerep/assets/fashion_captions.txt").read_text(encoding="utf-8").splitlines()
    captions = [f"{lines[number % len(lines)]}, number {number}" for number in range(count)]
    path.write_text("\n".join(captions) + "\n", encoding="utf-8")
    return captions


def submit(stack: Stack, path: Path, name: str) -> None:
    """A job from outside, by the command that a user types."""
    command = ["submit", path.name, "--name", name, "--preset", "tiny", "--set", "steps=4"]
    command += ["--captions-per-shard", str(CAPTIONS_PER_SHARD), "--address", stack.gateway]
    answer = run(
        [sys.executable, "-m", "stablerep", *command],
        environment={"PYTHONPATH": str(ROOT)},
        folder=path.parent,
        shown="stablerep " + " ".join(command),
    )
    say(f"  {' '.join(answer.split())}")


def scale(stack: Stack) -> None:
    """Two workers more while the first one works."""
    arguments = ("up", "--detach", "--wait", "--no-recreate", "--scale", "generator=3")
    stack.compose(*arguments, log=CACHE / "scale.log")
    wait_for(lambda: len(stack.working()) == 3, "three workers with a shard in hand")
    say(f"  three workers, each with a shard in hand; {counts(job(stack, 'killed'))}")


def kill_one(stack: Stack) -> tuple[int, datetime]:
    """Ends a worker as the end of its machine would, its leases left behind; which shard it had, and when."""
    container, shard = next(iter(stack.working().items()))
    say(f"$ docker kill {container[:12]}   (it works on {shard})")
    stack.engine.docker("kill", container)
    when = datetime.now(UTC)
    after = job(stack, "killed")
    if after.done:
        raise Lost("the job had ended before the worker was killed: take more --captions")
    say(f"  {counts(after)}")
    return int(shard.rpartition("/")[2]), when


def redelivered(stack: Stack, shard: int, killed: datetime) -> None:
    """The killed worker's shard was done by another, once its lease was over."""
    found = stack.minio().stat_object(BUCKET, f"datasets/killed/index/{shard:06}.json").last_modified
    assert found is not None
    seconds = (found - killed).total_seconds()
    say(f"  shard {shard} of the killed worker was committed {seconds:.0f} s after the kill")
    if seconds > MAX_REDELIVERY_SECONDS:
        raise Lost(f"that is more than {MAX_REDELIVERY_SECONDS:.0f} s")


def watch(stack: Stack, name: str) -> None:
    """Waits for the end of the job, with a line every now and then."""
    start = time.monotonic()
    shown = start
    with Client(stack.gateway) as client:
        for seen in client.watch_job(name):
            if time.monotonic() - shown > 15 or seen.done:
                shown = time.monotonic()
                say(f"  {name}: {seen.state.value}, {counts(seen)}")
            if time.monotonic() - start > WAIT_SECONDS:
                raise Lost(f"{name} has not ended after {WAIT_SECONDS:.0f} s")
    if seen.state.value != "SUCCEEDED" or seen.counts.dead:
        raise Lost(f"{name} ended as {seen.state.value}: {seen.error} {counts(seen)}")
    say(f"  ended {time.monotonic() - start:.0f} s after the watch began")


def restart(stack: Stack) -> None:
    """Down with half a job done, and up again: what was done stays done, what was not goes on."""
    wait_for(lambda: job(stack, "restarted").counts.done >= 20, "20 shards done")
    start = time.monotonic()
    stack.compose("down", log=CACHE / "down.log")
    say(f"  down in {time.monotonic() - start:.0f} s; the volumes stay")
    start = time.monotonic()
    stack.compose("up", "--detach", "--wait", "--scale", "generator=2", log=CACHE / "up-again.log")
    after = job(stack, "restarted")
    say(f"  all healthy after {time.monotonic() - start:.0f} s")
    say(f"  restarted: {after.state.value}, {counts(after)}")
    if after.counts.done < 20:
        raise Lost(f"{after.counts.done} shards are done after the restart, 20 were before it")
    if job(stack, "killed").state.value != "SUCCEEDED":
        raise Lost("the first job is no longer SUCCEEDED after the restart")


def check(stack: Stack, name: str, captions: list[str]) -> Stored:
    """Every group in the bucket against the captions file, and against what the gateway counts."""
    stored = read_stored(stack.minio(), BUCKET, name, IMAGES_PER_CAPTION)
    problems = compare(stored, captions)
    counted = job(stack, name).counts
    if (counted.groups, counted.images) != (len(stored.captions), stored.images):
        problems.append(f"the gateway counts {counted.groups} groups and {counted.images} images")
    if problems:
        raise Lost(f"{name}: {'; '.join(problems[:10])}")
    groups = len(stored.captions)
    say(f"  {name} in MinIO: {len(stored.shards)} shards, {groups} groups, {stored.images} images;")
    say("    0 groups missing, 0 doubled, every image decodes, the gateway counts the same")
    return stored


def look(stack: Stack, dataset: str, stored: Stored) -> None:
    """The console shows the dataset, and has a worker make one group again."""
    with httpx.Client(base_url=stack.console, follow_redirects=True, timeout=120) as browser:
        shown = browser.get(f"/datasets/{dataset}.json").json()
        if (shown["count"], shown["images"]) != (len(stored.captions), stored.images):
            raise Lost(f"the console counts {shown['count']} groups and {shown['images']} images")
        path = f"/datasets/{dataset}/captions/{shown['groups'][0]['group']['caption_id']}"
        csrf = browser.get(path).text.split('name="csrf" value="')[1].split('"')[0]
        made = browser.post(f"{path}/remake.json", data={"csrf": csrf}).json()
        if made.get("equal") != [True] * IMAGES_PER_CAPTION:
            raise Lost(f"a group made again by the console is another: {made}")
        workers = browser.get("/system.json").json()["workers"]
    say(f"  the console at {stack.console} shows {shown['count']} groups and {len(workers)} workers;")
    say("    a group made again from it has the same bytes")


def browse(stack: Stack, folder: Path) -> None:
    """A job from a file to images made again, in a real Chromium."""
    few = folder / "few.txt"
    few.write_text("a red shoe\na blue bag\na green coat\n", encoding="utf-8")
    with chromium() as browser, watched(browser) as page:
        submit_and_look(page, stack.console, few, "browsed", preset="flat", seconds=WAIT_SECONDS)
    say("  in Chromium: a file submitted, watched to its end, and an image made again with the same bytes")


def train(stack: Stack, dataset: str) -> None:
    """A run on the job's dataset: queued, taken by the trainer service, killed, resumed, finished."""
    config = {
        "steps": 60,
        "views_per_batch": 64,
        "method.images_per_caption": 4,
        "checkpoint_every": 10,
        "log_every": 2,
    }
    with Client(stack.gateway) as client:
        say(f"$ stablerep train --on gateway --dataset {dataset} --run first")
        client.runs.train("first", [dataset], preset="demo", config=config)
        wait_for(lambda: client.runs.get("first").step >= 10, "ten steps of the run")
        (container,) = stack.containers("trainer")
        say(f"$ docker restart --time 0 {container[:12]}   (step {client.runs.get('first').step})")
        stack.engine.docker("restart", "--time", "0", container)
        run = list(client.runs.watch("first", timeout=WAIT_SECONDS))[-1][0]
        if run.state != "SUCCEEDED" or run.step != config["steps"]:
            raise Lost(f"the run ended as {run.state} after step {run.step}: {run.error}")
        say(f"  first: {run.state}, loss {run.loss}, {run.result['seconds']} s of training")


def build_kernels(stack: Stack) -> None:
    """torch builds and loads machine code in both images of torch's CUDA build, as it does for a GPU."""
    for service in ("generator", "trainer"):
        if stack.python(service, "import importlib.util as u; print(bool(u.find_spec('triton')))") != "True":
            say(f"  {service}: torch's CPU build, without a compiler")
            continue
        missing = stack.python(service, "from stablerep.building import *; print(repr(missing_to_build()))")
        made = stack.python(
            service, "import torch; print(torch.compile(lambda x: (x + 1).sum())(torch.ones(3)).item())"
        )
        if (missing, made) != ("''", "6.0"):
            raise Lost(f"torch cannot compile in {service}: {missing}, and it gave {made}")
        say(f"  {service}: torch compiles, and loads what it compiled")


def unchanged(before: Stored, after: Stored, what: str) -> None:
    """No shard was written again."""
    if before.shards != after.shards:
        raise Lost(f"{what} changed: shards were written again")
    say(f"  {what} is what it was, byte for byte")


def measure(stack: Stack) -> None:
    """Memory of each container, and that Prometheus sees every process."""
    for name, used in sorted(stack.memory().items()):
        say(f"  memory of {name}: {used}")
    wait_for(lambda: scraped(stack) == ["gateway", "generator", "generator"], "Prometheus to reach them all")
    say("  Prometheus reaches the gateway and both workers")


def scraped(stack: Stack) -> list[str]:
    """Kind of each process at which Prometheus' last look went well."""
    with urllib.request.urlopen(f"{stack.prometheus}/api/v1/targets?state=active", timeout=10) as answer:
        targets = json.load(answer)["data"]["activeTargets"]
    return sorted(each["labels"]["job"] for each in targets if each["health"] == "up")


def keep_logs(stack: Stack) -> None:
    """The containers' logs, for whoever looks into a failure."""
    path = CACHE / "failure.log"
    path.write_text(stack.compose("logs", "--no-color", "--timestamps", show=False), encoding="utf-8")
    say(f"  the containers' logs are in {path.relative_to(ROOT)}")


def job(stack: Stack, name: str) -> Job:
    """The job now."""
    with Client(stack.gateway) as client:
        return client.get_job(name)


def counts(job: Job) -> str:
    """Its shards by state."""
    now = job.counts
    return (
        f"{now.done} of {now.shards} shards done, {now.leased} leased, {now.pending} pending, {now.dead} dead"
    )


def wait_for(ready: Callable[[], bool], what: str) -> None:
    """Raises Lost when it does not come."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise Lost(f"waited {WAIT_SECONDS:.0f} s in vain for {what}")
        time.sleep(0.2)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
