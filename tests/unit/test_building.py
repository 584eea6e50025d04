"""What keeps torch from building kernels is found and named, each thing that it needs by itself."""

import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

from stablerep import building
from stablerep.building import missing_to_build, pin_rounding


@pytest.fixture
def headers(monkeypatch, tmp_path) -> Path:
    folder = tmp_path / "include"
    folder.mkdir()
    monkeypatch.setattr(building.sysconfig, "get_path", lambda name: str(folder))
    (folder / "Python.h").touch()
    monkeypatch.setenv("CC", sys.executable)
    return folder


def test_nothing_is_missing(headers):
    assert missing_to_build() == ""


def test_headers(headers):
    (headers / "Python.h").unlink()
    assert missing_to_build() == f"there are no headers of Python ({headers}/Python.h)"


def test_a_compiler(headers, monkeypatch, tmp_path):
    monkeypatch.setenv("CC", str(tmp_path / "missing"))
    assert missing_to_build() == f"there is no C compiler ({tmp_path}/missing)"
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing_to_build() == "there is no C compiler (gcc or clang)"
    clang = tmp_path / "clang"
    clang.write_text("#!/bin/sh\n")
    clang.chmod(0o755)
    assert missing_to_build() == ""


def test_a_folder_that_code_may_be_loaded_from(headers, monkeypatch, tmp_path):
    folder = tmp_path / "mounted"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert missing_to_build() == ""
    command = ["mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no folder with noexec: a file system may not be mounted here (needs root)")
    try:
        assert missing_to_build().startswith(f"{folder} is mounted with noexec, ")
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert missing_to_build() == ""


def test_triton_rounds_as_it_does_today_and_warns_of_nothing(monkeypatch):
    language = pytest.importorskip("triton.knobs").language
    for given, fused in (("1", True), ("0", False), (None, True)):
        monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", given or "")
        if given is None:
            monkeypatch.delenv("TRITON_DEFAULT_FP_FUSION")
        pin_rounding()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert language.fp_fusion_enabled(None) is fused
