"""The README's notebook examples run as they stand, in its order."""

import contextlib
import io
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stablerep.shards import DatasetInfo, build_tar, commit_shard, write_dataset
from stablerep.storage import open_store
from tests.paths import ROOT

README = ROOT / "README.md"


def python_blocks() -> list[str]:
    section = README.read_text().split("## In a notebook")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_the_notebook_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generate, read, loss = python_blocks()
    names: dict[str, Any] = {}
    exec(generate, names)
    assert [len(group.images) for group in names["groups"]] == [4, 4]
    assert names["groups"][0].images[0].size == (32, 32)
    store = open_store(str(tmp_path / "demo/store"))
    info = DatasetInfo(
        name="demo",
        recipe={},
        recipe_digest="",
        job_seed=0,
        captions_per_shard=2,
        source={},
        create_time=datetime.now(UTC),
    )
    write_dataset(store, info)
    commit_shard(store, "demo", 0, build_tar(names["groups"]))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(read, names)
    assert printed.getvalue() == "black plain ankle boot with high heel 4\n"
    exec(loss, names)
    # Random embeddings in two groups of four: about ln(7) nats, never below the floor ln(3).
    assert 1.0986 < float(names["loss"]) < 8.0


def test_each_example_is_three_lines() -> None:
    assert [len(block.strip().splitlines()) for block in python_blocks()] == [3, 3, 3]
