"""Verbs around bearer tokens: token new, token list."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from stablerep.cli.show import Json, print_json, table
from stablerep.errors import InvalidInput
from stablerep.progress import console
from stablerep.tokens import add_token, entry, new_token, read_tokens

app = typer.Typer(no_args_is_help=True, help="Make and list the tokens that let callers in.")

_DAYS = re.compile(r"([1-9][0-9]{0,4})d")
_ROLES = ("read", "submit", "admin")


@app.command("new")
def new(
    name: Annotated[str, typer.Option("--name", help="Whose token it is; stands in the servers' logs.")],
    role: Annotated[str, typer.Option("--role", help="read, submit or admin.")],
    expires: Annotated[
        str, typer.Option("--expires", help="90d, 2030-01-31 or a time with its zone; empty: never.")
    ] = "",
    file: Annotated[
        Path | None, typer.Option("--file", help="Tokens file to add it to; made if there is none.")
    ] = None,
) -> None:
    """Makes a token and prints it once; servers get to know its hash alone.

    The token goes to standard output, everything else to standard error.

    Examples:

        stablerep token new --name ci --role submit

        stablerep token new --name ops --role admin --expires 90d --file tokens.yaml > ops.token
    """
    if role not in _ROLES:
        raise InvalidInput(f"{role!r} is not one of {', '.join(_ROLES)}", field="--role")
    text, token = new_token(name, role, _expiry(expires))  # type: ignore[arg-type]  # checked above
    if file is not None:
        add_token(file, token)
        typer.echo(f"{name} ({role}) is in {file}; the token is shown this once:", err=True)
    else:
        lines = entry(token)
        typer.echo(f"put this below `tokens:` in the server's auth.tokens_file:\n{lines}", err=True)
        typer.echo("the token is shown this once:", err=True)
    typer.echo(text)


@app.command("list")
def list_tokens(
    file: Annotated[Path, typer.Option("--file", help="The tokens file.")],
    as_json: Json = False,
) -> None:
    """Lists the tokens of a file; delete a token's lines there to revoke it.

    Example: stablerep token list --file tokens.yaml
    """
    tokens = read_tokens(file)
    if as_json:
        print_json(token.model_dump(mode="json") for token in tokens)
        return
    shown = table("name", "role", "expires", "sha256 begins")
    for token in tokens:
        expires = f"{token.expires:%Y-%m-%d %H:%M %Z}" if token.expires else "never"
        shown.add_row(token.name, token.role, expires + " (over)" * token.expired(), token.sha256[:12])
    console.print(shown if shown.row_count else "no tokens: every caller is rejected")


def _expiry(text: str) -> datetime | None:
    """The moment that `90d`, a day or a time means."""
    if not text:
        return None
    if days := _DAYS.fullmatch(text):
        return datetime.now(UTC).replace(microsecond=0) + timedelta(days=int(days[1]))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{text!r} is neither like 90d nor like 2030-01-31", field="--expires") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment <= datetime.now(UTC):
        raise InvalidInput(f"{text} is over already", field="--expires")
    return moment
