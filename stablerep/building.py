"""What torch needs of a machine to build kernels for a GPU, and what of it is missing."""

import os
import shutil
import sysconfig
import tempfile
from pathlib import Path


def missing_to_build() -> str:
    """Why torch can't build kernels for a GPU here, in words; empty where it can.

    It needs a C compiler, Python's headers, and a folder for temporary files that code may be loaded from.
    """
    compilers = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
    if not any(map(shutil.which, compilers)):
        return f"there is no C compiler ({' or '.join(compilers)})"
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.exists():
        return f"there are no headers of Python ({headers})"
    folder = tempfile.gettempdir()
    if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
        return f"{folder} is mounted with noexec, nothing built there can be loaded: name another by TMPDIR"
    return ""


def pin_rounding() -> None:
    """Has Triton go on to round a product and a sum once, which is faster and more exact.

    3.9 does so unless told otherwise, and says in each log that 3.10 will not. Whoever set it has it his way.
    """
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
