"""Addresses of hosts: how they are read, and by which networks clients are counted."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a port."""

    address: Address
    port: int

    @property
    def family(self) -> int:
        """1 for IPv4, 2 for IPv6 (RFC 2428 section 2)."""
        return 1 if self.address.version == 4 else 2


#: Addresses of recent clients that are remembered, and their networks: one login asks a dozen times.
_REMEMBERED = 1024


@lru_cache(maxsize=_REMEMBERED)
def plain_address(host: str, scope: int | str = 0) -> Address:
    """Return an address. An IPv4-mapped IPv6 address becomes IPv4. Raises ValueError.

    A zone in the text (%eth0) is dropped, because it names an interface of the machine that wrote it. `scope` is an
    interface of this machine, which only a link-local address needs (RFC 4007).
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if scope and address.is_link_local:
        return ipaddress.IPv6Address(f"{address}%{scope}")
    return address.ipv4_mapped or address


def is_ipv4(text: str) -> bool:
    """Return whether a text is an IPv4 address, and not a host name."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its address or as localhost."""
    try:
        return plain_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@lru_cache(maxsize=_REMEMBERED)
def network(address: Address) -> str:
    """Return the network by which an address is counted: `203.0.113.9`, or `2001:db8::/64`, which one host may own.

    All hosts of a link share the prefix of link-local addresses (RFC 4291 section 2.5.6), so each of these is counted
    by itself.
    """
    if address.version == 4 or address.is_link_local:
        return str(address).partition("%")[0]
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


@lru_cache(maxsize=_REMEMBERED)
def site(address: Address) -> str:
    """Return the largest network that one customer of a provider gets: `203.0.113.9`, `2001:db8:1::/48` (RFC 6177)."""
    if address.version == 4 or address.is_link_local:
        return network(address)
    return str(ipaddress.IPv6Network((int(address) >> 80 << 80, 48)))


def in_zone_of(address: Address, other: Address) -> Address:
    """Return an address that a client has sent. A link-local one is on the interface of `other`."""
    return plain_address(str(address), getattr(other, "scope_id", None) or 0)


def socket_address(address: Address, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return the tuple for `bind` and `connect`, which accept no zone in the text."""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address), port
    host, _, scope = str(address).partition("%")
    return host, port, 0, int(scope or 0)
