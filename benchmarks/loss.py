"""The multi-positive loss against a dense implementation and pytorch-metric-learning's: time and peak memory.

    python -m benchmarks.loss            # writes benchmarks/results/loss.json

Forward and backward of N embeddings of 256 numbers, six a caption as in the paper, float32, on one CPU thread
or on a GPU if there is one. Every measurement runs in a process of its own, since the peak of a process never
falls; the three implementations take turns, so that another program's load meets all of them.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stablerep.objectives import multi_positive_loss

SIZES = (4098, 8256)
VIEWS = 6
WIDTH = 256
REPEATS = 3
RESULT = Path(__file__).parent / "results" / "loss.json"


def ours(embeddings: Tensor, labels: Tensor) -> Tensor:
    return multi_positive_loss(embeddings, labels)


def dense(embeddings: Tensor, labels: Tensor) -> Tensor:
    """The formula as one would write it first: N x N logits, mask and target distribution."""
    z = F.normalize(embeddings, dim=1)
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / 0.1).masked_fill(own, -1e9)
    positives = ((labels[:, None] == labels) & ~own).float()
    target = positives / positives.sum(1, keepdim=True).clamp(min=1)
    return -(target * F.log_softmax(logits, dim=1)).sum(1).mean()


def metric_learning(embeddings: Tensor, labels: Tensor) -> Tensor:
    from pytorch_metric_learning.losses import SupConLoss

    loss: Tensor = SupConLoss(temperature=0.1)(embeddings, labels)
    return loss


IMPLEMENTATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "stablerep": ours,
    "dense": dense,
    "pytorch-metric-learning": metric_learning,
}


def measure(name: str, rows: int) -> dict[str, float]:
    """Seconds and MiB above what the inputs take, of one forward and backward pass after a small warm-up."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    labels = torch.arange(rows // VIEWS, device=device).repeat(VIEWS)
    embeddings = torch.randn(rows, WIDTH, device=device, requires_grad=True)
    IMPLEMENTATIONS[name](embeddings[: VIEWS * 2], labels[: VIEWS * 2]).backward()
    embeddings.grad = None
    before = _peak(device)
    began = _clock(device)
    value = IMPLEMENTATIONS[name](embeddings, labels)
    value.backward()
    seconds = _clock(device) - began
    return {"seconds": seconds, "mib": (_peak(device) - before) / 2**20, "loss": value.item()}


def _clock(device: torch.device) -> float:
    """The one thread's own time on a CPU, which another program's load lengthens least."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def compare(rows: int) -> dict[str, dict[str, float]]:
    """Medians over the repeats, and ratios to ours."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in IMPLEMENTATIONS}
    for _ in range(REPEATS):
        for name, results in taken.items():
            command = [sys.executable, "-m", "benchmarks.loss", "--measure", name, "--rows", str(rows)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout))
    medians = {
        name: {key: round(statistics.median(r[key] for r in results), 4) for key in results[0]}
        for name, results in taken.items()
    }
    for values in medians.values():
        values["times_ours_seconds"] = round(values["seconds"] / medians["stablerep"]["seconds"], 2)
        values["times_ours_mib"] = round(values["mib"] / max(1.0, medians["stablerep"]["mib"]), 1)
    return medians


def hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"one thread of {next(names, platform.processor() or platform.machine())}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", choices=IMPLEMENTATIONS)
    parser.add_argument("--rows", type=int, default=SIZES[0])
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.rows)))
        return
    measured = {str(rows): compare(rows) for rows in SIZES}
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "command": "python -m benchmarks.loss",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "what": f"forward and backward, {VIEWS} rows a label, {WIDTH} wide, float32; median of {REPEATS}",
        "seconds": "of the one CPU thread, or on a GPU of the clock",
        "rows": measured,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for rows, results in measured.items():
        for name, values in results.items():
            print(f"N = {rows}  {name:<24} {values['seconds']:7.3f} s  {values['mib']:8.1f} MiB")


if __name__ == "__main__":
    main()
