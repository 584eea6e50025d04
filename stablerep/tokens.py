"""Bearer tokens and their roles: made once, shown once, kept as hashes in a YAML or JSON file.

    tokens:
      - name: ci
        role: submit
        sha256: 5f1e...
        expires: 2030-01-31T00:00:00+00:00

A token is 256 random bits, so one SHA-256 is enough: nobody can guess it, with or without the file. A slow
hash (bcrypt, argon2) is for passwords, which people choose, and would cost its milliseconds at every call.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from stablerep.errors import InvalidInput

PREFIX = "sr_"
"""How tokens begin, so that scanners of source code can find one that was left there."""
_RANDOM_BYTES = 32
_LONGEST_FILE = 1 << 20
_HEADER = "# Made by `stablerep token new`: hashes only. Servers read this file again when it changes.\n"


class Role(IntEnum):
    """A caller's rights; each role includes those before it."""

    READ = 1
    SUBMIT = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """Its form in files and settings."""
        return self.name.lower()


RoleWord = Literal["read", "submit", "admin"]


def _moment(value: Any) -> Any:
    """A day begins at midnight UTC, and a time without a zone is UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return value  # pydantic says what is wrong with it
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if isinstance(value, datetime) and value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return value


class Token(BaseModel):
    """One token as a server knows it: by its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$")
    role: RoleWord
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    expires: Annotated[datetime | None, BeforeValidator(_moment)] = None

    @property
    def rank(self) -> Role:
        return Role[self.role.upper()]

    def expired(self, now: datetime | None = None) -> bool:
        """Whether its time is over."""
        return self.expires is not None and (now or datetime.now(UTC)) >= self.expires


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: tuple[Token, ...]


def new_token(name: str, role: RoleWord, expires: datetime | None = None) -> tuple[str, Token]:
    """A new token: its text, stored nowhere, and the record that a server needs.

    Raises:
        InvalidInput: a name that is not 1-63 of letters, digits and `.`, `_`, `@`, `-`, or an unknown role.
    """
    text = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    try:
        return text, Token(name=name, role=role, sha256=digest(text), expires=expires)
    except ValidationError as error:
        wrong, field = _first(error)
        raise InvalidInput(wrong, field=field) from None


def digest(text: str) -> str:
    """SHA-256 of a token's text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def find_token(tokens: Iterable[Token], text: str) -> Token | None:
    """The token with this text; takes the same time whether or not there is one."""
    wanted, found = digest(text), None
    for token in tokens:
        if hmac.compare_digest(token.sha256, wanted):
            found = token
    return found


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens of a file; an empty list (`tokens: []`) rejects every caller.

    Raises:
        InvalidInput: it cannot be read or is not what this module writes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST_FILE + 1)
    except OSError as error:
        raise _wrong(f"cannot read {path}: {error.strerror}") from None
    return parse_tokens(data, str(path))


def parse_tokens(data: bytes, where: str) -> tuple[Token, ...]:
    """The tokens in the bytes of a file called `where`; see `read_tokens`."""
    if len(data) > _LONGEST_FILE:
        raise _wrong(f"{where} is larger than {_LONGEST_FILE >> 20} MiB")
    try:
        content = yaml.safe_load(data.decode())
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "problem", None) or type(error).__name__
        raise _wrong(f"{where} is not YAML: {reason}") from None
    if not isinstance(content, dict):
        raise _wrong(f"{where} does not begin with `tokens:`")
    try:
        tokens = _File.model_validate(content).tokens
    except ValidationError as error:
        text, at = _first(error)
        raise _wrong(f"{where}: {at}: {text}") from None
    if len({token.sha256 for token in tokens}) < len(tokens):
        raise _wrong(f"{where}: the same token is listed twice")
    return tokens


def entry(token: Token) -> str:
    """The token's lines for a tokens file."""
    return yaml.safe_dump([_plain(token)], sort_keys=False)


def add_token(path: Path, token: Token) -> None:
    """Adds a token to a file, which is made where there is none; at every moment the file is whole.

    Only its owner may read it. Raises InvalidInput for a file that cannot be read or written.
    """
    tokens = [*(read_tokens(path) if path.exists() else ()), token]
    content: Any = {"tokens": [_plain(one) for one in tokens]}
    if path.suffix == ".json":
        text = json.dumps(content, indent=2) + "\n"
    else:
        text = _HEADER + yaml.safe_dump(content, sort_keys=False)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise InvalidInput(f"cannot write {path}: {error.strerror}", field="--file") from None


def _wrong(text: str) -> InvalidInput:
    return InvalidInput(text, field="auth.tokens_file")


def _plain(token: Token) -> dict[str, str]:
    return {key: str(value) for key, value in token.model_dump(mode="json").items() if value is not None}


def _first(error: ValidationError) -> tuple[str, str]:
    """An error that names the place, never the value, which may be a token itself."""
    first = error.errors(include_url=False, include_input=False)[0]
    return first["msg"], ".".join(str(part) for part in first["loc"]) or "the file"
