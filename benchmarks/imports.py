"""Time and memory to import what a client and the gateway need, against importing torch.

    python -m benchmarks.imports         # writes benchmarks/results/imports.json

Every import runs in a fresh process; the modules take turns, so that another program's load meets them alike.
A first, unmeasured turn brings the files into the system's cache.
"""

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

MODULES = ("stablerep.client", "services.gateway.__main__", "torch")
REPEATS = 5
RESULT = Path(__file__).parent / "results" / "imports.json"


def measure(module: str) -> dict[str, float]:
    """Seconds to import the module here, of the clock and of the processor, and peak memory in MiB."""
    began, began_cpu = time.perf_counter(), time.process_time()
    __import__(module)
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    scale = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak}


def compare() -> dict[str, dict[str, float]]:
    """The medians of every module, and how many times as much torch takes."""
    taken: dict[str, list[dict[str, float]]] = {module: [] for module in MODULES}
    for turn in range(REPEATS + 1):
        for module, results in taken.items():
            command = [sys.executable, "-m", "benchmarks.imports", module]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            if turn > 0:
                results.append(json.loads(done.stdout))
    medians = {
        module: {key: round(statistics.median(each[key] for each in results), 3) for key in results[0]}
        for module, results in taken.items()
    }
    for values in medians.values():
        values["torch_takes_times"] = round(medians["torch"]["cpu_seconds"] / values["cpu_seconds"], 1)
    return medians


def hardware() -> str:
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names) or '?'} cores of {(names or [platform.processor() or platform.machine()])[0]}"


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    measured = compare()
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "command": "python -m benchmarks.imports",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("stablerep", "grpcio", "pydantic", "torch")},
        },
        "what": f"import in a fresh process, median of {REPEATS}; torch_takes_times compares processor time",
        "modules": measured,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for module, values in measured.items():
        print(f"{module:<24} {values['seconds']:7.3f} s  {values['peak_mib']:8.1f} MiB")


if __name__ == "__main__":
    main()
