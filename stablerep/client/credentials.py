"""How a client proves who it is and makes sure of the server: token, TLS, and no token in clear text."""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from stablerep.certificates import read_authority, read_identity
from stablerep.config.address import check_address
from stablerep.errors import InvalidInput

File = str | os.PathLike[str]


@dataclass(frozen=True)
class Credentials:
    """What both clients take beside the address.

    Args:
        token: sent with every call as a bearer token.
        ca_file: certificates of the authority that the server's must be of, PEM; None: those gRPC comes with.
        cert_file: the client's own certificate, for servers that ask for one, PEM.
        key_file: its key.
        tls: None: TLS if any of the files is given.
        allow_clear_text: sends the token without TLS to another machine, where anyone on the way can read it.

    Raises:
        InvalidInput: on `channel` or `aio_channel`, for a file that does not serve, a token that is none, and
            a token that would leave this machine in clear text.
    """

    token: str | None = field(default=None, repr=False)
    ca_file: File | None = None
    cert_file: File | None = None
    key_file: File | None = None
    tls: bool | None = None
    allow_clear_text: bool = False

    def channel(self, address: str, options: list[tuple[str, int | str]]) -> grpc.Channel:
        """A blocking channel to HOST:PORT."""
        secure = self._secure(address)
        if secure is None:
            return grpc.insecure_channel(address, options=_direct(address, options))
        return grpc.secure_channel(address, secure, options=options)

    def aio_channel(self, address: str, options: list[tuple[str, int | str]]) -> grpc.aio.Channel:
        """The same for asyncio."""
        secure = self._secure(address)
        if secure is None:
            return grpc.aio.insecure_channel(address, options=_direct(address, options))
        return grpc.aio.secure_channel(address, secure, options=options)

    def metadata(self) -> list[tuple[str, str]]:
        """What goes with every call."""
        return [("authorization", f"Bearer {self.token}")] if self.token else []

    def _secure(self, address: str) -> grpc.ChannelCredentials | None:
        """Credentials of the channel; None for clear text."""
        check_address(address, field="address")
        if self.token and not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise InvalidInput("is no token: it holds blanks or other than ASCII characters", field="token")
        given = any(file is not None for file in (self.ca_file, self.cert_file, self.key_file))
        if not (given if self.tls is None else self.tls):
            if given:
                raise InvalidInput("is off, but certificate files are given", field="tls")
            self._keep_token_here(address)
            return None
        authority = None if self.ca_file is None else read_authority(Path(self.ca_file), field="ca_file")
        if self.cert_file is None and self.key_file is None:
            return grpc.ssl_channel_credentials(authority)
        if self.cert_file is None or self.key_file is None:
            missing = "cert_file" if self.cert_file is None else "key_file"
            raise InvalidInput("is missing: a certificate and its key go together", field=missing)
        fields = ("cert_file", "key_file")
        chain, key = read_identity(Path(self.cert_file), Path(self.key_file), fields=fields)
        return grpc.ssl_channel_credentials(authority, key, chain)

    def _keep_token_here(self, address: str) -> None:
        if self.token and not self.allow_clear_text and not _is_local(address):
            raise InvalidInput(
                f"is not sent to {address} in clear text, for anyone on the way could read it; use TLS "
                "(ca_file, or tls where a public authority signed the certificate), or allow_clear_text on a "
                "network that you trust",
                field="token",
            )


def _is_local(address: str) -> bool:
    """Whether HOST:PORT (or unix:PATH) is this machine by its very name."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _direct(address: str, options: list[tuple[str, int | str]]) -> list[tuple[str, int | str]]:
    """A proxy of the environment (http_proxy) would carry what is meant for this machine over the network."""
    return [*options, ("grpc.enable_http_proxy", 0)] if _is_local(address) else options
