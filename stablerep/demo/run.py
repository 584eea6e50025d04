"""`stablerep demo` from start to end; a stage whose files are there already is passed over."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stablerep.cores import cores
from stablerep.demo.generate import generate_images
from stablerep.demo.pace import Overall, estimate, measure_side_by_side
from stablerep.demo.probe import probe_all
from stablerep.demo.settings import DEMO_BYTES, DemoSettings, claim_folder, demo_settings
from stablerep.demo.summary import write_report
from stablerep.demo.train import train_all
from stablerep.errors import StableRepError
from stablerep.local.foreground import interrupt_on_sigterm, only_one
from stablerep.progress import console, minutes, step
from stablerep.report.page import has_learnt, headline


def run_demo(out: Path, *, size: str | None, seeds: int | None, fresh: bool) -> None:
    """Runs or resumes the demo in the folder `out`.

    Raises: InvalidInput for other settings than the folder's, StableRepError when a stage fails or another
    demo runs in the folder.
    """
    settings = demo_settings(size, seeds)
    if fresh and (out / "demo.json").exists():
        shutil.rmtree(out)
    resumed = claim_folder(out, settings)
    with only_one(out / "demo.lock", f"another demo is running in {out}; wait for it, or name another --out"):
        _run_stages(out, settings, resumed)


def _run_stages(out: Path, settings: DemoSettings, resumed: bool) -> None:
    _check_disk(out)
    console.print(_announcement(out, settings, resumed))
    interrupt_on_sigterm()
    try:
        overall = _overall(out, settings)
        with _timed(out, "generate", overall):
            generate_images(out, settings, overall.seconds)
        with _timed(out, "train", overall):
            train_all(out, settings, overall.seconds)
        with _timed(out, "probe", overall):
            probe_all(out, settings, overall.seconds)
        with _timed(out, "report", overall):
            write_report(out, settings, _command(out, settings), seconds(out))
    except KeyboardInterrupt:
        command = f"{_program()} {_arguments(out, settings)}"
        console.print(f"\nstopped; everything finished so far is kept. Go on with: {command}")
        raise
    _print_result(out)


def seconds(out: Path) -> dict[str, float]:
    """Seconds spent in each stage over all runs in this folder, and their total."""
    record = out / "seconds.json"
    spent: dict[str, float] = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    return {**spent, "total": sum(spent.values())}


def _arguments(out: Path, settings: DemoSettings) -> str:
    return shlex.join(
        ["demo", "--size", settings.size, "--seeds", str(settings.seeds), "--out", os.fspath(out)]
    )


def _command(out: Path, settings: DemoSettings) -> str:
    """What the report says it was made with: the folder's own name only, wherever it was."""
    return f"stablerep {_arguments(Path(out.name), settings)}"


def _program() -> str:
    """How this program was started, so that the same can be typed again."""
    if Path(sys.argv[0]).name != "stablerep":
        return shlex.join([sys.executable, "-m", "stablerep"])
    return "stablerep" if shutil.which("stablerep") else shlex.quote(os.path.relpath(sys.argv[0]))


def _overall(out: Path, settings: DemoSettings) -> Overall:
    """Times a few steps of each stage, says how long the demo takes, and follows it from here on."""
    with _timed(out, "timing"), step("timing a few steps of each stage"):
        pace = measure_side_by_side(out / "pace.json")
    spent = seconds(out)
    estimates = estimate(settings, pace)
    whole = {"timing": spent["timing"], **estimates}
    parts = ", ".join(f"{stage} {minutes(value)}" for stage, value in whole.items())
    console.print(f"On this machine about {minutes(sum(whole.values()))}: {parts}.")
    return Overall(estimates, {stage: value for stage, value in spent.items() if stage != "total"})


@contextmanager
def _timed(out: Path, stage: str, overall: Overall | None = None) -> Iterator[None]:
    began = time.monotonic()
    if overall is not None:
        overall.begin(stage)
    try:
        yield
    finally:
        spent = seconds(out)
        spent.pop("total")
        # The report is made again each time; the other stages resume.
        before = 0.0 if stage == "report" else spent.get(stage, 0.0)
        spent[stage] = before + time.monotonic() - began
        if overall is not None:
            overall.end(time.monotonic() - began)
        (out / "seconds.json").write_text(json.dumps(spent, indent=1) + "\n", encoding="utf-8")


def _check_disk(out: Path) -> None:
    free = shutil.disk_usage(out).free
    if free < DEMO_BYTES:
        raise StableRepError(
            f"{out} is on a disk with {free >> 20} MiB free; the demo writes up to {DEMO_BYTES >> 20} MiB. "
            "Free some space, or name another folder with --out."
        )


def _announcement(out: Path, settings: DemoSettings, resumed: bool) -> str:
    runs = settings.seeds * len(settings.methods)
    return (
        f"{'Resuming the demo' if resumed else 'Demo'} in {out}: {settings.images:,} images from "
        f"{settings.captions:,} captions, {runs} training runs of {settings.training_steps:,} steps, "
        "probes on real photographs.\n"
        f"It uses 2 cores (this machine has {cores()}); nothing is downloaded. "
        "Ctrl-C stops it, the same command resumes it."
    )


def _print_result(out: Path) -> None:
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    console.print()
    console.print(f"{'accuracy on real photographs, %':<52}{'10 a class':>11}{'kNN':>8}{'all labels':>11}")
    for row, measured in report["probe"].items():
        cells = "".join(
            f"{100 * sum(v) / len(v):>{w}.1f}"
            for v, w in ((measured["few"], 11), (measured["knn"], 8), (measured["linear"], 11))
        )
        console.print(f"{report['titles'][row]:<52}{cells}")
    if not has_learnt(report):
        console.print(f"\n{headline(report)}.")
    spent = report["seconds"]
    stages = ", ".join(f"{k} {v:.0f} s" for k, v in spent.items() if k != "total")
    console.print(f"\n{stages}; together {spent['total'] / 60:.1f} minutes")
    console.print(f"report: {out / 'report.html'}   encoder: {out / 'export'}")
