"""The banned networks, for finding those that contain an address: Networks."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator

from ftpsd.protocol.addresses import Address, plain_address


class Networks:
    """Networks as texts: `203.0.113.9`, `203.0.113.0/24`, `2001:db8::/32`. An address is looked up once per prefix
    length, however many networks there are."""

    def __init__(self) -> None:
        self._texts: set[str] = set()
        #: How many networks there are, by version of IP and prefix length.
        self._lengths: Counter[tuple[int, int]] = Counter()

    def add(self, text: str) -> None:
        """Add a network. A text that is none matches nothing."""
        length = _length(text)
        if length is not None and text not in self._texts:
            self._texts.add(text)
            self._lengths[length] += 1

    def remove(self, text: str) -> None:
        """Remove a network, if it is here."""
        length = _length(text)
        if length is not None and text in self._texts:
            self._texts.discard(text)
            self._lengths[length] -= 1
            if not self._lengths[length]:
                del self._lengths[length]

    def around(self, client: Address) -> Iterator[str]:
        """Yield the networks that contain an address."""
        address = plain_address(str(client)) if self._lengths else client
        for version, length in self._lengths:
            if version == address.version:
                cls = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
                text = network_text(cls((int(address), length), strict=False))
                if text in self._texts:
                    yield text


def network_text(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    """Return the text of a network; that of a single host has no length."""
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


def _length(text: str) -> tuple[int, int] | None:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return None
    return network.version, network.prefixlen
