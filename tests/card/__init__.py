"""A stand-in for a card with CUDA: what torch does on it, and in what order, is tested where there is none.

`runtime.c` takes the place of the CUDA runtime, so that torch's allocator, streams, events, pinned memory and
random generators are the real ones; `operations` runs each operation on the host. Compiled graphs run
operation by operation; or torch's compiler writes Triton kernels for them, which `interpreter` runs. Nothing
here is fast, and no kernel runs on a card: neither speed nor last bits can be found out.
"""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.paths import ROOT

FOLDER = Path(__file__).parent
_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def build_runtime(folder: Path) -> Path:
    """The library that is loaded before torch's. The headers come with Triton."""
    triton = find_spec("triton")
    assert triton, "torch's build has no CUDA"
    headers = Path(str(triton.origin)).parent / "backends/nvidia/include"
    library = folder / "libcuda.so.1"  # torch opens the driver by this name
    compiler = os.environ.get("CC") or shutil.which("gcc") or "cc"
    command = [compiler, "-shared", "-fPIC", "-O1", f"-I{headers}", f"{FOLDER / 'runtime.c'}"]
    subprocess.run([*command, f"-Wl,-soname,{library.name}", "-o", str(library), "-lpthread"], check=True)
    return library


def environment(library: Path, kernels: Path | None = None, **settings: object) -> dict[str, str]:
    """Of a process with cards: `bytes` of each, their `count`; torch's `sanitizer`, which looks for races.

    With `kernels`, torch's compiler writes them into this folder, and they are interpreted.
    """
    interpreter = {} if kernels is None else {name: str(kernels) for name in _CACHES}
    if interpreter:
        interpreter |= {"TRITON_INTERPRET": "1", "TRITON_LIBCUDA_PATH": str(library.parent)}
    return {
        **os.environ,
        "LD_PRELOAD": str(library),
        "PYTHONPATH": f"{FOLDER / 'startup'}:{ROOT}",
        "OMP_NUM_THREADS": "1",
        **interpreter,
        **{f"CARD_{name.upper()}": str(value) for name, value in settings.items()},
    }


def run(library: Path, *arguments: str, status: int = 0, **settings: Any) -> str:
    """What a Python with these arguments prints on cards; fails with all its output if it ends otherwise."""
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command,
        env=environment(library, **settings),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == status, done.stdout
    return done.stdout
