"""`stablerep sweep` with real services: it fills its figure, is stopped and resumed, outlives failures."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import psutil
import pytest
import yaml

from stablerep.local.services import local_services
from stablerep.runs.probe_records import parse_record
from stablerep.storage import open_store
from stablerep.sweeps.plan import make_plan
from stablerep.sweeps.spec import load_sweep
from tests.sweeps import SWEEP

ONE = ("--set", "axes.guidance.values=[2]")


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SWEEP, sort_keys=False), encoding="utf-8")
    return tmp_path / "small.yaml"


def start(file: Path, *options: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "stablerep",
        "sweep",
        str(file),
        "--out",
        str(file.parent / "out"),
        *options,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def test_a_sweep_is_stopped_resumed_and_says_what_failed(file):
    out = file.parent / "out"
    stopped = start(file, *ONE, "--processes", "1")
    deadline = time.monotonic() + 240
    while not list(out.glob("store/runs/stablerep-*/starts/*")):
        assert stopped.poll() is None, stopped.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    stopped.send_signal(signal.SIGSTOP)  # on a busy machine it would end while the second one starts
    second = start(file, *ONE)
    printed = second.communicate(timeout=60)[0]
    assert "another sweep is running in" in printed, printed
    stopped.send_signal(signal.SIGTERM)
    stopped.send_signal(signal.SIGCONT)
    printed = stopped.communicate(timeout=60)[0]
    assert "everything finished so far is kept. Go on with: stablerep sweep" in printed, printed
    assert stopped.returncode != 0

    resumed = start(file, *ONE, "--processes", "2")
    printed = resumed.communicate(timeout=400)[0]
    assert resumed.returncode == 1
    assert "1 run has no scores" in printed, printed
    assert "no caption has 8 images to draw (the most is 4)" in printed
    assert "Traceback" not in printed
    assert "generate" not in printed  # the first one had done that

    content = json.loads((out / "small.json").read_text(encoding="utf-8"))
    scores = {tuple(point["labels"].values()): point["scores"] for point in content["points"]}
    assert 0.1 < scores["2", "StableRep"]["knn"] < 1
    assert scores["2", "too many"] is None
    page = (out / "small.html").read_text(encoding="utf-8")
    assert "Guidance &amp; temperature &lt;small&gt;" in page
    assert "What failed" in page
    chart = ET.parse(out / "small.svg").getroot()
    titles = [title.text for title in chart.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 1
    (done,) = [run for run in out.glob("store/runs/*") if (run / "result.json").exists()]
    assert len(list((done / "probes").iterdir())) == 1


def kill_child(sweep: subprocess.Popen, named: str) -> None:
    """Kills (-9) the first process below the sweep whose command holds these words, once there is one."""
    deadline = time.monotonic() + 240
    while True:
        assert sweep.poll() is None, sweep.communicate()[0]
        assert time.monotonic() < deadline, f"no {named}"
        for child in psutil.Process(sweep.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if named in " ".join(child.cmdline()):
                    child.kill()
                    return
        time.sleep(0.05)


def test_a_sweep_outlives_its_queue_server_a_worker_and_a_trainer(file):
    options = ["--processes", "1", "--set", "axes.method.values={StableRep: {}}", "--set", "train.steps=40"]
    more = ["--set", "train.checkpoint_every=5", "--set", "train.views_per_batch=64"]
    sweep = start(file, *ONE, *options, *more, "--set", "data.synthetic.limit=96")
    kill_child(sweep, "services.generator")
    deadline = time.monotonic() + 240
    while not list((file.parent / "out").glob("store/datasets/*/index/*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kill_child(sweep, "valkey-server")
    kill_child(sweep, "services.trainer")
    printed = sweep.communicate(timeout=400)[0]
    assert sweep.returncode == 0, printed
    assert "the queue server has ended; restarting it" in printed, printed
    for named in ("generator-0", "trainer-stablerep"):
        assert re.search(rf"{named}\S* was ended by signal 9 \(Killed\); restarting it", printed), printed
    content = json.loads((file.parent / "out" / "small.json").read_text(encoding="utf-8"))
    assert 0.1 < content["points"][0]["scores"]["knn"] < 1


def test_what_another_machine_measured_is_not_made_again(file, tmp_path):
    plan = make_plan(*load_sweep(str(file), {}), "file:///elsewhere")
    points = [
        {"labels": point.labels, "seed": point.seed, "scores": {"knn": 0.25 + 0.125 * number}}
        for number, point in enumerate(plan.points)
    ]
    there = tmp_path / "there.json"
    content = {"sweep": "small", "spec": plan.spec.model_dump(mode="json"), "points": points}
    there.write_text(json.dumps(content), encoding="utf-8")
    drawn = start(file, "--with", str(there))
    printed = drawn.communicate(timeout=60)[0]
    assert drawn.returncode == 0, printed
    assert "4 of them measured elsewhere" in printed
    here = json.loads((tmp_path / "out" / "small.json").read_text(encoding="utf-8"))
    assert [point["scores"] for point in here["points"]] == [point["scores"] for point in points]
    assert not (tmp_path / "out" / "store" / "datasets").exists()

    for changed, message in (
        ({"sweep": "other"}, "is of the sweep other, not of small"),
        ({"spec": {**content["spec"], "use": ["real"]}}, "was measured with another use"),
    ):
        there.write_text(json.dumps({**content, **changed}), encoding="utf-8")
        refused = start(file, "--with", str(there))
        assert message in refused.communicate(timeout=60)[0]
    there.write_text("[]", encoding="utf-8")
    assert "is no NAME.json of a sweep" in start(file, "--with", str(there)).communicate(timeout=60)[0]


def test_show_makes_nothing_and_says_what_would_be_made(file):
    shown = start(file, "--show", "--set", "seeds=2")
    printed = shown.communicate(timeout=60)[0]
    assert shown.returncode == 0
    assert "32 of builtin:fashion, 4 images a caption, 2 steps, guidance 1" in printed
    assert "8 runs of 768 views together" in printed
    assert not (file.parent / "out").exists()


def test_a_gateway_makes_what_a_sweep_asks_for(file, tmp_path):
    with local_services(tmp_path / "services", workers=1, trainers=1) as services:
        options = ["--on", "gateway", "--address", services.address, *ONE]
        asked = start(file, *options)
        printed = asked.communicate(timeout=300)[0]
        assert "1 run has no scores" in printed, printed
        assert "no caption has 8 images to draw (the most is 4)" in printed
        content = json.loads((tmp_path / "out" / "small.json").read_text(encoding="utf-8"))
        scores = [point["scores"] for point in content["points"]]
        assert [score is not None for score in scores] == [True, False]
        assert 0.1 < scores[0]["knn"] < 1
        store = open_store(services.store_url)
        runs = [point["run"] for point in content["points"] if point["scores"]]
        for run in runs:  # the record is with the run that was measured
            (record,) = store.list(f"runs/{run}/probes/")
            assert parse_record(store.get(record.key), record.key).scores["knn"].value == pytest.approx(
                next(point["scores"]["knn"] for point in content["points"] if point["run"] == run)
            )
        before = sorted(entry.key for entry in store.list("runs/"))
        start(file, *options).communicate(timeout=100)
        assert sorted(entry.key for entry in store.list("runs/")) == before  # nothing is made again


def test_what_only_this_machine_has_is_not_for_a_gateway(file):
    folder = start(file, "--on", "gateway", "--set", "probe.data=photographs")
    assert "a gateway probes by the protocol frozen on fashion" in folder.communicate(timeout=60)[0]
    images = start(
        file,
        "--on",
        "gateway",
        "--set",
        "data.synthetic={images: builtin:fashion}",
        "--set",
        "axes.guidance.key=train.seed",
    )
    assert "import it into the gateway's store" in images.communicate(timeout=60)[0]
