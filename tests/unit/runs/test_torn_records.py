"""Records of a run that cannot be read: it says so itself, and keeps no other from its start."""

import json

import pytest

from stablerep.errors import TornObject
from stablerep.runs.metrics import MetricsTail
from stablerep.runs.records import active_runs, create_run
from stablerep.runs.spec import RunSpec
from stablerep.runs.view import run_view
from stablerep.shards.layout import run_key
from stablerep.storage import open_store
from tests.unit.runs.test_spec import PROBE

TORN = [b"", b"{", b"[]", b"\xff", b"[" * 100_000]


@pytest.mark.parametrize("content", TORN)
@pytest.mark.parametrize("name", ["job/create.json", "job/end.json", "progress.json", "result.json"])
def test_the_run_says_which_of_its_records_cannot_be_read(tmp_path, name, content):
    store = open_store(tmp_path)
    create_run(store, RunSpec(run="one", probe=PROBE))
    store.put(run_key("one", name), content)
    with pytest.raises(TornObject, match=f"runs/one/{name}"):
        run_view(store, "one")


@pytest.mark.parametrize("content", TORN)
def test_other_runs_start_all_the_same_and_it_is_told_once(tmp_path, content, caplog):
    store = open_store(tmp_path)
    for run in ("one", "two", "three"):
        create_run(store, RunSpec(run=run, probe=PROBE))
    store.put(run_key("two", "job/create.json"), content)
    for _ in range(3):
        assert [record.spec.run for record in active_runs(store)] == ["one", "three"]
    assert caplog.text.count("run two is not started") == 1


def test_lines_of_metrics_that_are_none_are_read_again_when_they_have_changed(tmp_path):
    store, key = open_store(tmp_path), run_key("one", "metrics.jsonl")
    tail = MetricsTail(store, "one")
    for content in (
        *TORN[1:],
        b'{"loss": 1}\n',
        b'{"step": 1, "loss": "x"}\n',
        b'{"step": 1, "loss": null}\n',
    ):
        store.put(key, content)
        assert tail.new() == []
    lines = [{"step": step, "loss": 0.5} for step in (1, 2)]
    store.put(key, "".join(json.dumps(line) + "\n" for line in lines).encode())
    assert tail.new() == lines
    assert tail.new() == []
