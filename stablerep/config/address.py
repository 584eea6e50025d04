"""HOST:PORT, checked in one place for clients, servers and probes."""

import re

from stablerep.errors import InvalidInput

_OTHER_TARGETS = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "xds:")
"""Targets that gRPC names in its own way; it checks them itself."""
_HOST = re.compile(r"[A-Za-z0-9._%-]+|\[[0-9A-Fa-f:.%]+\]")


def check_address(address: str, *, field: str, listening: bool = False) -> str:
    """The address itself. Raises InvalidInput, on behalf of `field`, saying how to write it.

    Args:
        listening: to listen on; port 0, any free port, and an empty host are allowed then.
    """
    if address.startswith(_OTHER_TARGETS):
        return address
    scheme, separator, rest = address.partition("://")
    if separator:
        raise InvalidInput(f"leave out {scheme}://; write {rest.strip('/') or 'HOST:PORT'}", field=field)
    host, _, port = address.rpartition(":")
    if ":" in host.strip("[]") and not host.startswith("["):
        raise InvalidInput(f"{address}: write an IPv6 address in brackets, [{address}]:50051", field=field)
    if not host and not (listening and address.startswith(":")):
        raise InvalidInput(f"{address!r} has no port; write {address or '127.0.0.1'}:50051", field=field)
    if not (port.isdecimal() and port.isascii()) or not (0 if listening else 1) <= int(port) <= 65535:
        least = 0 if listening else 1
        raise InvalidInput(f"{address}: the port {port!r} is not a number in {least}..65535", field=field)
    if host and not _HOST.fullmatch(host):
        raise InvalidInput(f"{host!r} is not a host name or address; write HOST:PORT", field=field)
    return address
