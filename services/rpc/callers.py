"""Who calls: a bearer token's owner, or an anonymous caller where the settings let one in."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from services.rpc.reload import ReloadedFiles
from stablerep.config.settings import Auth
from stablerep.errors import InvalidInput, Unauthenticated
from stablerep.tokens import Role, Token, find_token, read_tokens

ANONYMOUS = "anonymous"
_LONGEST_HEADER = 512
_HOW = "send the metadata `authorization: Bearer TOKEN` (STABLEREP_TOKEN or --token-file of the command line)"


@dataclass(frozen=True)
class Caller:
    """The name in the tokens file, or `anonymous`."""

    name: str
    role: Role

    def __str__(self) -> str:
        return f"{self.name} ({self.role.word})"


@dataclass(frozen=True)
class Callers:
    """Those who may call; without tokens there is only the anonymous one, and tokens are not looked at."""

    tokens: ReloadedFiles[tuple[Token, ...]] | None
    anonymous: Role | None

    def identify(self, metadata: Iterable[Any]) -> Caller:
        """The caller that a call's metadata (pairs of key and value) names.

        Raises:
            Unauthenticated: no token and no anonymous callers; or a token that is malformed, unknown or
                expired, which is never taken for an anonymous call.
        """
        sent = [value for key, value in metadata if key == "authorization"]
        if self.tokens is None or not sent:
            return self._anonymous()
        if len(sent) > 1:
            raise Unauthenticated("two tokens came with the call; send the metadata `authorization` once")
        token = find_token(self.tokens.get(), _bearer(sent[0]))
        if token is None:
            raise Unauthenticated(
                "the token is not one of this server's; check that it was copied whole and is still in the "
                "server's tokens file"
            )
        if token.expires is not None and token.expired():
            raise Unauthenticated(
                f"the token {token.name} has expired on {token.expires:%Y-%m-%d %H:%M} UTC; ask for a new one"
            )
        return Caller(token.name, token.rank)

    def _anonymous(self) -> Caller:
        if self.anonymous is None:
            raise Unauthenticated(f"no token came with the call; {_HOW}")
        return Caller(ANONYMOUS, self.anonymous)


def _bearer(value: str | bytes) -> str:
    """The token in the header's value, which is never repeated in an error."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    scheme, _, token = text.strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or " " in token or len(text) > _LONGEST_HEADER:
        raise Unauthenticated(f"the metadata `authorization` is no bearer token; {_HOW}")
    return token


def read_callers(auth: Auth, address: str, *, field: str) -> Callers:
    """Who may call a server that listens on `address`.

    Raises:
        InvalidInput: the tokens file cannot be used; or everybody on the network could come in, as there is
            none and no role for anonymous callers was set. `field` is the setting of the address.
    """
    anonymous = Role[auth.anonymous.upper()] if auth.anonymous else None
    path = auth.tokens_file
    if path is not None:
        return Callers(ReloadedFiles([path], lambda: read_tokens(path)), anonymous)
    if anonymous is None and not is_loopback(address):
        raise InvalidInput(
            f"{address} can be reached from other machines, and nothing says who may call: set "
            "auth.tokens_file (`stablerep token new --name NAME --role admin --file FILE` makes one), or "
            "auth.anonymous=admin where whoever reaches it may do everything, or listen on 127.0.0.1",
            field=field,
        )
    return Callers(None, anonymous or Role.ADMIN)


def is_loopback(address: str) -> bool:
    """Whether only this machine's processes reach HOST:PORT; a name other than localhost does not count."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
