"""Generates stablerep/v1/ from proto/ (`make proto`); a test checks that doing it again changes nothing."""

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


def generate(out: Path) -> None:
    """Writes messages, type stubs and gRPC code of every .proto into `out`/stablerep/v1."""
    protos = sorted(str(p.relative_to(ROOT / "proto")) for p in (ROOT / "proto").rglob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}"]
    arguments += [f"--{kind}={out}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    if protoc.main(arguments + protos) != 0:
        raise SystemExit("protoc failed")
    init = out / "stablerep" / "v1" / "__init__.py"
    init.write_text(
        '"""Generated from proto/stablerep/v1 by `make proto`; do not edit."""\n', encoding="utf-8"
    )


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
