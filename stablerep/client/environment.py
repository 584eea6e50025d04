"""A client from the environment: token and certificates as the STABLEREP_* variables say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from stablerep.client.sync import Client
from stablerep.errors import InvalidInput

_LONGEST_TOKEN = 512


def client_from_environment(address: str) -> Client:
    """A client of the gateway at HOST:PORT, for code that has no command line."""
    return Client(address, token=read_token(None), **tls_from_environment())


def tls_from_environment() -> dict[str, Any]:
    """The arguments of `Client` about TLS, as the variables set them."""
    environment = os.environ

    def file(name: str) -> Path | None:
        return Path(environment[name]) if environment.get(name) else None

    def is_on(name: str) -> bool:
        return environment.get(name, "").lower() in ("1", "true", "yes", "on")

    return {
        "ca_file": file("STABLEREP_CA_FILE"),
        "cert_file": file("STABLEREP_CERT_FILE"),
        "key_file": file("STABLEREP_KEY_FILE"),
        "tls": is_on("STABLEREP_USE_TLS") or None,
        "allow_clear_text": is_on("STABLEREP_ALLOW_CLEAR_TEXT"),
    }


def read_token(file: Path | None) -> str | None:
    """The token of the file, of STABLEREP_TOKEN or of the file in STABLEREP_TOKEN_FILE; None for none.

    There is no option for the token itself: every user of a machine sees the command lines of all.
    """
    field = "--token-file"
    if file is None:
        token = os.environ.get("STABLEREP_TOKEN", "").strip()
        if token or not os.environ.get("STABLEREP_TOKEN_FILE"):
            return token or None
        file, field = Path(os.environ["STABLEREP_TOKEN_FILE"]), "STABLEREP_TOKEN_FILE"
    try:
        with file.open(encoding="utf-8") as lines:
            token = lines.read(_LONGEST_TOKEN + 1).strip()
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror}", field=field) from None
    except UnicodeDecodeError:
        token = ""
    if not token or len(token) > _LONGEST_TOKEN:
        raise InvalidInput(f"{file} does not hold a token and nothing else", field=field)
    return token
