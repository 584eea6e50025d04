"""The benchmark of a GPU runs here at tiny sizes, part by part, and keeps what it has when it is stopped."""

import json
import os
import signal
import subprocess
import sys
import time

FIGURES = {
    "sampling": {
        "stablerep_images_per_second",
        "diffusers_images_per_second",
        "fast_compiled_images_per_second",
        "fast_in_line_images_per_second",
        "fast_same_bytes_in_line",
        "unet_ms",
        "denoiser_ms",
        "vae_ms",
        "decoder_ms",
    },
    "loss": {"240_stablerep", "240_dense"},
    "step": {"plain timm loop", "stablerep"},
    "one_card": {"views", "parts", "views_per_second"},
    "input": {"views_per_second", "data_wait", "transfer_seconds", "step_alone_views_per_second"},
    "remake": {"same_bytes"},
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(out, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(out), *options]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_every_part_but_the_study(tmp_path):
    out = tmp_path / "gpu.json"
    process = start(out)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["sizes"].startswith("tiny")
    assert set(result["parts"]) == set(FIGURES)
    for part, figures in FIGURES.items():
        assert figures <= result["parts"][part].keys(), output
        assert "ended" not in result["parts"][part]
    assert result["parts"]["remake"]["same_bytes"] == "3 of 3"


def test_kernels(tmp_path):
    out = tmp_path / "gpu.json"
    process = start(out, "--parts", "kernels")
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    found = json.loads(out.read_text(encoding="utf-8"))["parts"]["kernels"]
    assert {"channels_last_ms", "64x64x5 torch_ms", "64x77x5 math_ms", "ways"} <= found.keys(), output
    assert "ended" not in found


def test_parts_that_were_run_before_stay(tmp_path):
    out = tmp_path / "gpu.json"
    for parts in ("loss", "step", "loss"):
        output, _ = start(out, "--parts", parts).communicate(timeout=120)
        result = json.loads(out.read_text(encoding="utf-8"))
        if parts == "loss" and "step" not in result["parts"]:
            result["parts"]["loss"]["earlier"] = 1
            out.write_text(json.dumps(result), encoding="utf-8")
    assert set(result["parts"]) == {"loss", "step"}, output
    assert "earlier" not in result["parts"]["loss"]
    result["versions"]["torch"] = "1.0"
    out.write_text(json.dumps(result), encoding="utf-8")
    start(out, "--parts", "loss").communicate(timeout=120)
    assert set(json.loads(out.read_text(encoding="utf-8"))["parts"]) == {"loss"}


def test_the_study(tmp_path):
    out = tmp_path / "gpu.json"
    process = start(out, "--parts", "study")
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    summary = json.loads(out.read_text(encoding="utf-8"))["parts"]["study"]["summary"]
    assert [one["labels"]["method"] for one in summary] == ["StableRep", "SimCLR"]
    assert all(len(scores) == 1 for one in summary for scores in one["scores"].values())


def test_a_part_that_is_out_of_time_keeps_its_figures(tmp_path):
    out = tmp_path / "gpu.json"
    process = start(out, "--parts", "loss,study", "--minutes", "0.3")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    parts = json.loads(out.read_text(encoding="utf-8"))["parts"]
    assert parts["loss"]["240_stablerep"]["ms"] > 0
    assert parts["study"] == {"ended": "out of time"}


def test_ctrl_c_keeps_what_there_is(tmp_path):
    out = tmp_path / "gpu.json"
    process = start(out, "--parts", "loss,step")
    until = time.monotonic() + 100
    while not (out.exists() and "240_dense" in out.read_text(encoding="utf-8")):
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert "240_dense" in json.loads(out.read_text(encoding="utf-8"))["parts"]["loss"]


def test_an_unknown_part_is_named(tmp_path):
    process = start(tmp_path / "gpu.json", "--parts", "speed")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "no part 'speed'; there are sampling, kernels, loss" in output
