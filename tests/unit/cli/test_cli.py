"""The command line: help everywhere with examples, one-line errors, nothing heavy imported for a client."""

import subprocess
import sys
from pathlib import Path

import pytest

from stablerep.cli.jobs import choose_recipe
from stablerep.config.recipe import load_recipe

COMMANDS = [
    ["demo"],
    ["up"],
    ["doctor"],
    ["submit"],
    ["jobs", "list"],
    ["jobs", "show"],
    ["jobs", "watch"],
    ["jobs", "pause"],
    ["jobs", "resume"],
    ["jobs", "cancel"],
    ["jobs", "retry"],
    ["jobs", "delete"],
    ["jobs", "shards"],
    ["reconcile"],
    ["token", "new"],
    ["token", "list"],
    ["preview"],
    ["estimate"],
    ["gallery"],
    ["train"],
    ["probe"],
    ["export"],
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stablerep", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=None)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_verb_has_help_with_an_example(command: list[str]) -> None:
    from typer.testing import CliRunner

    from stablerep.cli import app

    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"stablerep {command[0]}" in result.output


def test_version_is_printed() -> None:
    from stablerep import __version__

    assert run("--version").stdout.strip() == f"stablerep {__version__}"


def test_an_unreachable_gateway_is_one_line_and_exit_1() -> None:
    result = run("jobs", "show", "shoes", "--address", "127.0.0.1:1")
    assert result.returncode == 1
    assert "127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_caption_file_is_named() -> None:
    result = run("submit", "no-such-captions.txt", "--name", "shoes")
    assert result.returncode == 1
    assert "no-such-captions.txt" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_malformed_override_names_itself() -> None:
    result = run("preview", "a boot", "--preset", "tiny", "--set", "steps")
    assert result.returncode == 1
    assert "'steps' is not KEY=VALUE" in result.stderr


def test_an_unknown_option_exits_2() -> None:
    assert run("demo", "--colour", "red").returncode == 2


def test_the_command_line_loads_no_torch() -> None:
    code = (
        "import sys, stablerep.cli; print([m for m in ('torch', 'diffusers', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("redis", ["up"], "serve"),
        ("numpy", ["gallery", "no-such-dataset/datasets/x"], "train"),
        ("torch", ["probe", "pixels"], "train"),
    ],
)
def test_a_missing_extra_is_named(missing: str, command: list[str], extra: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from stablerep.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert result.returncode == 1
    assert "pip install 'stablerep[" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("mine")
    result = run("demo", "--size", "tiny", "--out", str(tmp_path / "demo"))
    assert result.returncode == 1
    assert str(tmp_path / "demo") in result.stderr
    assert "Traceback" not in result.stderr


def test_a_recipe_file_is_sent_whole(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: tiny\nsteps: 7\ncaptions_per_shard: 5\n")
    chosen = choose_recipe(str(file), ["guidance_scale=3"])
    assert (chosen.preset, chosen.captions_per_shard) == ("", 5)
    recipe = load_recipe("sd15", chosen.overrides)
    assert (recipe.model, recipe.steps, recipe.guidance_scale) == ("builtin:fashion", 7, 3.0)


def test_brackets_are_shown_and_not_taken_for_markup() -> None:
    assert "extra [serve] is complete" in run("doctor").stdout


def test_json_silences_its_own_command_alone(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from stablerep.cli import app
    from stablerep.progress import console

    result = CliRunner().invoke(
        app, ["train", "--json", "--run", "none", "--dataset", str(tmp_path / "none")]
    )
    assert result.exit_code != 0
    assert not console.quiet
