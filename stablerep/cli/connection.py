"""How every verb reaches a server: one set of options and variables for address, token and certificates."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from stablerep.client.environment import read_token

if TYPE_CHECKING:
    from stablerep.client import Client, GeneratorClient

_PANEL = "Connection"


@dataclass(frozen=True)
class Connection:
    """The options of a verb that calls a server; `connected` puts them on its command line."""

    address: Annotated[
        str,
        typer.Option(
            "--address", envvar="STABLEREP_ADDRESS", help="The gateway's HOST:PORT.", rich_help_panel=_PANEL
        ),
    ] = "127.0.0.1:50051"
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help="File that holds your token; else STABLEREP_TOKEN, else the file in STABLEREP_TOKEN_FILE.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    ca_file: Annotated[
        Path | None,
        typer.Option(
            "--ca-file",
            envvar="STABLEREP_CA_FILE",
            help="Certificates of the server's authority, PEM; with it, TLS is spoken.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    cert_file: Annotated[
        Path | None,
        typer.Option(
            "--cert-file",
            envvar="STABLEREP_CERT_FILE",
            help="Your own certificate, where the server asks for one, PEM.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file", envvar="STABLEREP_KEY_FILE", help="Its private key, PEM.", rich_help_panel=_PANEL
        ),
    ] = None
    tls: Annotated[
        bool,
        typer.Option(
            "--tls",
            envvar="STABLEREP_USE_TLS",
            help="TLS with a server whose certificate a public authority signed.",
            rich_help_panel=_PANEL,
        ),
    ] = False
    allow_clear_text: Annotated[
        bool,
        typer.Option(
            "--allow-clear-text",
            envvar="STABLEREP_ALLOW_CLEAR_TEXT",
            help="Send the token without TLS to another machine; anyone on the way can read it.",
            rich_help_panel=_PANEL,
        ),
    ] = False

    def client(self, **more: Any) -> Client:
        """A client of the gateway; to be used in a `with` block."""
        from stablerep.client import Client

        return Client(self.address, **self._proof(), **more)

    def worker(self, address: str) -> GeneratorClient:
        """A client of the worker at HOST:PORT, with the same token and certificates."""
        from stablerep.client import GeneratorClient

        return GeneratorClient(address, **self._proof())

    def _proof(self) -> dict[str, Any]:
        return {
            "token": read_token(self.token_file),
            "ca_file": self.ca_file,
            "cert_file": self.cert_file,
            "key_file": self.key_file,
            "tls": self.tls or None,
            "allow_clear_text": self.allow_clear_text,
        }


def connected(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with the options of `Connection` in place of its parameter `connection`."""
    return _with_options(verb, [field.name for field in fields(Connection)])


def connected_to_worker(verb: Callable[..., None]) -> Callable[..., None]:
    """The same for a verb that calls no gateway, but a worker whose address it has from elsewhere."""
    return _with_options(verb, [field.name for field in fields(Connection) if field.name != "address"])


def _with_options(verb: Callable[..., None], names: list[str]) -> Callable[..., None]:
    keyword = inspect.Parameter.KEYWORD_ONLY
    hints = get_type_hints(verb, localns={"Connection": Connection}, include_extras=True)
    options = get_type_hints(Connection, include_extras=True)
    defaults = {field.name: field.default for field in fields(Connection)}
    parameters = [
        parameter.replace(annotation=hints[name], kind=keyword)
        for name, parameter in inspect.signature(verb).parameters.items()
        if name != "connection"
    ]
    parameters += [
        inspect.Parameter(name, keyword, default=defaults[name], annotation=options[name]) for name in names
    ]

    def run(**values: Any) -> None:
        connection = Connection(**{name: values.pop(name) for name in names})
        verb(connection=connection, **values)

    run.__name__, run.__doc__, run.__module__ = verb.__name__, verb.__doc__, verb.__module__
    # Typer reads the one or the other, depending on its version.
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__dict__["__signature__"] = inspect.Signature(parameters)
    return run
