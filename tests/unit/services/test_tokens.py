"""Bearer tokens: how they are made, kept and read, and how the command line finds the one to send."""

import hashlib
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from stablerep.cli import app
from stablerep.cli.connection import Connection
from stablerep.client.environment import tls_from_environment
from stablerep.config.settings import load_settings
from stablerep.errors import InvalidInput
from stablerep.tokens import add_token, find_token, new_token, parse_tokens, read_tokens

NOW = datetime.now(UTC)


def test_tokens_are_256_random_bits_and_never_alike() -> None:
    texts = {new_token("a", "read")[0] for _ in range(100)}
    assert len(texts) == 100
    assert all(text.startswith("sr_") and len(text) == 3 + 43 for text in texts)


@pytest.mark.parametrize("name", ["tokens.yaml", "tokens.json"])
def test_a_file_holds_hashes_alone_and_only_its_owner_reads_it(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    texts = []
    for role in ("read", "submit", "admin"):
        text, token = new_token(role, role, NOW + timedelta(days=1))  # type: ignore[arg-type]
        add_token(file, token)
        texts.append(text)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written = file.read_text()
    assert not any(text in written or text[3:] in written for text in texts)
    content = json.loads(written) if name.endswith("json") else yaml.safe_load(written)
    assert [entry["sha256"] for entry in content["tokens"]] == [
        hashlib.sha256(text.encode()).hexdigest() for text in texts
    ]
    found = [find_token(read_tokens(file), text) for text in texts]
    assert [token and token.role for token in found] == ["read", "submit", "admin"]
    assert find_token(read_tokens(file), texts[0][:-1]) is None
    assert list(tmp_path.iterdir()) == [file], "nothing is left beside it"


@pytest.mark.parametrize("name", ["", "a b", "-a", "a\nb", "ü", "a" * 64, 'a"'])
def test_a_name_that_would_spoil_a_log_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        new_token(name, "read")
    assert caught.value.field == "name"


HASH = "a" * 64


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "does not begin with `tokens:`"),
        ("- name: x", "does not begin with `tokens:`"),
        ("tokens: [", "is not YAML"),
        ("tokens: 3", "tokens"),
        ("tokens: [{name: x, role: read}]", "tokens.0.sha256"),
        ("tokens: [{name: x, role: boss, sha256: HASH}]", "tokens.0.role"),
        ("tokens: [{name: x, role: read, sha256: sr_tokenitself}]", "tokens.0.sha256"),
        ("tokens: [{name: x, role: read, sha256: UPPER}]", "tokens.0.sha256"),
        ("tokens: [{name: x, role: read, sha256: HASH, expires: soon}]", "tokens.0.expires"),
        ("tokens: [{name: x, role: read, sha256: HASH, admin: true}]", "tokens.0.admin"),
        ("tokens: []\nmore: 1", "more"),
        (
            "tokens: [{name: x, role: read, sha256: HASH}, {name: y, role: admin, sha256: HASH}]",
            "twice",
        ),
    ],
)
def test_a_wrong_file_is_named_with_the_place_and_without_what_stands_there(content: str, text: str) -> None:
    filled = content.replace("HASH", HASH).replace("UPPER", HASH.upper())
    with pytest.raises(InvalidInput) as caught:
        parse_tokens(filled.encode(), "tokens.yaml")
    assert "tokens.yaml" in str(caught.value)
    assert text in str(caught.value)
    assert "tokenitself" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2030-01-31", datetime(2030, 1, 31, tzinfo=UTC)),
        ("2030-01-31T10:00:00", datetime(2030, 1, 31, 10, tzinfo=UTC)),
        ("2030-01-31T10:00:00Z", datetime(2030, 1, 31, 10, tzinfo=UTC)),
        ("2030-01-31T10:00:00+02:00", datetime(2030, 1, 31, 8, tzinfo=UTC)),
        ("'2030-01-31'", datetime(2030, 1, 31, tzinfo=UTC)),
    ],
)
def test_an_expiry_is_a_moment_in_utc(written: str, moment: datetime) -> None:
    (token,) = parse_tokens(
        f"tokens: [{{name: x, role: read, sha256: {HASH}, expires: {written}}}]".encode(), ""
    )
    assert token.expires == moment
    assert not token.expired(moment - timedelta(seconds=1))
    assert token.expired(moment)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def test_token_new_prints_the_token_once_and_adds_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    made = [run("token", "new", "--name", "ci", "--role", "submit", "--file", str(file)) for _ in range(2)]
    texts = [result.stdout.strip() for result in made]
    tokens = read_tokens(file)
    assert [find_token(tokens, text) for text in texts] == list(tokens)
    assert [(token.name, token.role) for token in tokens] == [("ci", "submit")] * 2


def test_token_new_without_a_file_prints_the_lines_for_one() -> None:
    result = run("token", "new", "--name", "ci", "--role", "read", "--expires", "90d")
    text = result.stdout.strip()
    lines = result.stderr.partition("\n")[2].rpartition("the token")[0]
    (token,) = parse_tokens(f"tokens:\n{lines}".encode(), "")
    assert find_token([token], text) is token
    assert token.expires is not None
    assert timedelta(days=89) < token.expires - NOW < timedelta(days=91)


@pytest.mark.parametrize(
    ("option", "value"), [("--role", "boss"), ("--expires", "soon"), ("--expires", "2001-01-01")]
)
def test_token_new_refuses_what_makes_no_sense(option: str, value: str, tmp_path: Path) -> None:
    arguments = {"--name": "ci", "--role": "read", "--file": str(tmp_path / "tokens.yaml"), option: value}
    result = run("token", "new", *(word for pair in arguments.items() for word in pair))
    assert isinstance(result.exception, InvalidInput)
    assert result.exception.field == option
    assert list(tmp_path.iterdir()) == []


def test_token_list_shows_no_token_and_no_whole_hash(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    text, token = new_token("old", "admin", NOW - timedelta(days=1))
    add_token(file, token)
    shown = run("token", "list", "--file", str(file)).stdout
    assert "old" in shown
    assert "admin" in shown
    assert "(over)" in shown
    assert text not in shown
    assert token.sha256 not in shown


def sent(connection: Connection) -> str | None:
    with connection.client() as client:
        found = dict(client._metadata).get("authorization")
    return found.removeprefix("Bearer ") if found else None


def test_the_token_file_of_the_command_line_comes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "option").write_text("from-option\n")
    (tmp_path / "variable").write_text("from-file\n")
    monkeypatch.setenv("STABLEREP_TOKEN_FILE", str(tmp_path / "variable"))
    assert sent(Connection()) == "from-file"
    monkeypatch.setenv("STABLEREP_TOKEN", "from-variable")
    assert sent(Connection()) == "from-variable"
    assert sent(Connection(token_file=tmp_path / "option")) == "from-option"


@pytest.mark.parametrize("content", ["", "\n", "x" * 600, "two words", "t\u00f6ken"])
def test_a_token_file_that_holds_no_token_is_refused_without_showing_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(InvalidInput) as caught:
        Connection(token_file=tmp_path / "token").client()
    assert not content.strip() or content not in str(caught.value)


def test_variables_of_the_client_are_no_wrong_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that inherits them, in `stablerep up` for one, must start all the same."""
    values = {
        "TOKEN": "t",
        "TOKEN_FILE": "f",
        "CA_FILE": "c",
        "CERT_FILE": "c",
        "KEY_FILE": "k",
        "USE_TLS": "1",
        "ALLOW_CLEAR_TEXT": "1",
        "ADDRESS": "a:1",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"STABLEREP_{name}", value)
    assert load_settings().tls.cert_file is None
    arguments = tls_from_environment()
    assert (arguments["ca_file"], arguments["tls"]) == (Path("c"), True)
    assert arguments["allow_clear_text"]


@pytest.mark.parametrize("verb", [["submit"], ["jobs", "list"], ["jobs", "cancel"], ["preview"]])
def test_every_verb_that_calls_a_server_takes_the_same_options(verb: list[str]) -> None:
    shown = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200"}).output
    for option in ("--token-file", "--ca-file", "--cert-file", "--key-file", "--tls", "--allow-clear-text"):
        assert option in shown
    assert "--token " not in shown, "a token on a command line can be read by all users of the machine"
