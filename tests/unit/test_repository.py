"""The rules of this repository: who may import what, what may be tracked, what is generated is up to date."""

import ast
import graphlib
import importlib
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.paths import ROOT

GENERATED = ROOT / "stablerep" / "v1"
LARGEST_FILE = 10 * 2**20
SLOW = {"torch", "torchvision", "timm", "diffusers", "transformers"}
"""Seconds to import each, so that a verb which needs none of them answers at once."""
HEAVY = SLOW | {"numpy", "PIL"}
LONGEST_FILE = 400
LIGHT_PACKAGES = [
    "stablerep.config",
    "stablerep.captions",
    "stablerep.storage",
    "stablerep.shards",
    "stablerep.queue",
    "stablerep.runs",
    "stablerep.jobs",
    "stablerep.local",
    "stablerep.client",
    "stablerep.cli",
    "stablerep.errors",
    "stablerep.v1",
    "services.gateway",
]
QUICK_PACKAGES = [
    "stablerep.demo",
    "stablerep.importing",
    "stablerep.methods",
    "stablerep.report",
    "stablerep.sweeps",
    "stablerep.testing",
    "services.console",
]
PUBLIC = [
    ("stablerep.objectives", "multi_positive_loss"),
    ("stablerep.storage", "open_store"),
    ("stablerep.data", "GroupDataset"),
    ("stablerep.generation", "Recipe"),
    ("stablerep.generation", "Generator"),
    ("stablerep.client", "Client"),
    ("stablerep.client", "AsyncClient"),
]


@cache
def tracked(suffix: str = "") -> list[Path]:
    """The files under version control whose name ends so."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listed.stdout.split("\0") if name.endswith(suffix) and name]
    return [path for path in paths if path.is_file()]


def imported(path: Path) -> set[str]:
    """The first parts of the names of all modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def import_graph() -> dict[str, set[str]]:
    """Every module of the library and the services, and those of them that it imports, anywhere in it."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in tracked(".py")
        if path.relative_to(ROOT).parts[0] in ("stablerep", "services") and not path.is_relative_to(GENERATED)
    }
    graph: dict[str, set[str]] = {module: set() for module in paths}
    for module, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                named = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            else:
                continue
            graph[module] |= named & paths.keys() - {module}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of a graph, or nothing."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_files_and_no_rooms_import_each_other_in_a_circle() -> None:
    """A room is a package just below `stablerep` or `services`; an import within a function counts, too."""
    files = import_graph()
    assert len(files) > 200
    rooms: dict[str, set[str]] = {}
    for module, others in files.items():
        room = ".".join(module.split(".")[:2])
        rooms.setdefault(room, set()).update(".".join(other.split(".")[:2]) for other in others)
        rooms[room].discard(room)
    assert len(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == 4
    assert circle(files) == []
    assert circle(rooms) == []


def test_no_file_of_code_is_long() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked(".py")
        if path.relative_to(ROOT).parts[0] in ("stablerep", "services") and not path.is_relative_to(GENERATED)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE
    }
    assert long == {}


def test_the_library_imports_no_service() -> None:
    library = [path for path in tracked(".py") if path.is_relative_to(ROOT / "stablerep")]
    assert len(library) > 10
    assert [str(path) for path in library if imported(path) & {"services", "tests", "benchmarks"}] == []


@pytest.mark.parametrize(
    ("package", "without"),
    [*((name, HEAVY) for name in LIGHT_PACKAGES), *((name, SLOW) for name in QUICK_PACKAGES)],
)
def test_packages_load_nothing_heavier_than_they_need(package: str, without: set[str]) -> None:
    """Imports every module of the package in a fresh process and names the first that loads any of them."""
    program = f"""
import importlib, pkgutil, sys
def load(name):
    module = importlib.import_module(name)
    found = sorted({without!r} & set(sys.modules))
    if found:
        sys.exit(f"{{name}} loads {{', '.join(found)}}")
    for part in pkgutil.iter_modules(getattr(module, "__path__", []), name + "."):
        if not part.name.endswith(".__main__"):
            load(part.name)
load({package!r})
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_public_names_stay(module: str, name: str) -> None:
    assert callable(getattr(importlib.import_module(module), name))


def test_every_file_says_in_its_first_line_what_it_is_for() -> None:
    silent = []
    for path in tracked(".py"):
        if path.is_relative_to(GENERATED) and path.name != "__init__.py":
            continue
        lines = path.read_text().splitlines()
        first = next((line for line in lines if not line.startswith("#!")), "")
        if not re.match(r'r?"""\S', first):
            silent.append(str(path.relative_to(ROOT)))
    assert silent == []


def test_no_tracked_file_is_large() -> None:
    assert [str(path) for path in tracked() if path.stat().st_size > LARGEST_FILE] == []


def test_no_tracked_file_names_a_folder_of_one_machine() -> None:
    private = re.compile(rb"(?<![\w.\-/])/(?:home|Users|root|work)/\w")
    assert [str(path.relative_to(ROOT)) for path in tracked() if private.search(path.read_bytes())] == []


def test_generated_code_is_what_the_protos_say(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "generate_protos.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, cwd=ROOT)
    fresh = {path.name: path.read_text() for path in (tmp_path / "stablerep" / "v1").glob("*.py*")}
    committed = {path.name: path.read_text() for path in GENERATED.glob("*.py*")}
    assert len(fresh) > 3
    assert fresh == committed, "run `make proto` and commit stablerep/v1"


def test_lower_bounds_are_what_the_generated_code_asks_for() -> None:
    grpc_code = (GENERATED / "generation_pb2_grpc.py").read_text()
    message_code = (GENERATED / "generation_pb2.py").read_text()
    grpcio = re.search(r"GRPC_GENERATED_VERSION = '([\d.]+)'", grpc_code)
    protobuf = re.search(r"PUBLIC,\s*(\d+),\s*(\d+),\s*(\d+),", message_code)
    assert grpcio
    assert protobuf
    required = requirements()
    assert f">={grpcio[1]}" in str(required["grpcio"].specifier)
    assert f">={'.'.join(protobuf.groups())}" in str(required["protobuf"].specifier)


def test_lock_holds_a_version_of_every_requirement() -> None:
    locked: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        name, version = line.split(" ;")[0].split("==")
        locked.setdefault(name, []).append(version)
    stale = [
        str(requirement)
        for name, requirement in requirements().items()
        if not all(map(requirement.specifier.contains, locked.get(name, ["absent"])))
    ]
    assert stale == [], "run `make lock`"


def test_lock_names_no_address_of_an_index() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|--|@|#|/", lock)


def requirements() -> dict[str, Requirement]:
    """Every package that pyproject.toml asks for, by its name in the lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [
        line for extra in project["optional-dependencies"].values() for line in extra
    ]
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(item.name): item for item in parsed if item.name != "stablerep"}


def reads_in_the_locale(tree: ast.AST) -> list[int]:
    """Lines that read or write text in whatever encoding the locale has."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        if ast.unparse(node.func) == "tarfile.open":
            continue
        method = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        modes = [argument.value for argument in node.args[-1:] if isinstance(argument, ast.Constant)]
        opens_text = method == "open" and any(re.fullmatch(r"[rwax]t?\+?", str(mode)) for mode in modes)
        if method in ("read_text", "write_text") or opens_text:
            lines.append(node.lineno)
    return lines


def test_text_files_have_an_encoding_of_their_own() -> None:
    sample = "p.read_text(); p.open('w'); open(p, 'r'); p.open('rb')"
    assert reads_in_the_locale(ast.parse(sample)) == [1, 1, 1]
    found = {
        str(path.relative_to(ROOT)): lines
        for path in tracked(".py")
        if path.relative_to(ROOT).parts[0] in ("stablerep", "services", "scripts", "benchmarks")
        if (lines := reads_in_the_locale(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert found == {}
