"""Which network addresses captions may be fetched from: the public internet's, others only by a setting."""

import ipaddress
from ipaddress import IPv4Address, IPv6Address

from stablerep.errors import InvalidInput

_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "2620:4f:8000::/48"))
)
_NAT64 = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48")))
_NOT_PUBLIC_4 = tuple(
    map(
        ipaddress.IPv4Network,
        ("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "240.0.0.0/4"),
    )
)
_METADATA = {ipaddress.ip_address(text) for text in ("168.63.129.16", "100.100.100.200", "192.0.0.192")}
_METADATA_6 = tuple(map(ipaddress.IPv6Network, ("fd00:ec2::/32", "fd20:ce::/32", "fd00:c1::/32")))
"""Clouds answer here with credentials of the machine; the link-local address is refused with its network."""


def check_address(text: str, *, private_networks: bool) -> None:
    """Raises InvalidInput for an address that captions may not be read from.

    Args:
        private_networks: lets private and loopback addresses pass; those of cloud metadata never do.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    wrapped = _wrapped(address)
    if _never(address) or (wrapped is not None and _never(wrapped)):
        raise InvalidInput("the host leads to a link-local, metadata or multicast address", field="uri")
    if not private_networks and not (_is_public(address) or (wrapped is not None and _is_public(wrapped))):
        raise InvalidInput(
            "the host leads to a private address; gateway.source_private_networks would let it", field="uri"
        )


def _wrapped(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for: mapped, compatible, NAT64, 6to4 or Teredo."""
    if isinstance(address, IPv4Address):
        return None
    if any(address in network for network in _NAT64) or (int(address) >> 32 == 0 and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]


def _never(address: IPv4Address | IPv6Address) -> bool:
    return (
        address in _METADATA
        or (isinstance(address, IPv6Address) and any(address in network for network in _METADATA_6))
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or str(address) == "255.255.255.255"
    )


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        return address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6)
    return address.is_global and not any(address in network for network in _NOT_PUBLIC_4)
