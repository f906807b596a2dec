"""Lifted bans of a state file that cannot be read yet: LateLifts."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from ftpsd.limits.bans.ban_table import Ban, Kind
from ftpsd.protocol import addresses
from ftpsd.protocol.login_rules import Network

#: The most requests that are remembered.
MOST = 1000


class LateLifts:
    """What an administrator has lifted while the state file could not be read: its bans must not come back from it.

    Lookups, and no comparison of each ban with each request: the reactor would stand still for a minute.
    """

    def __init__(self) -> None:
        self._everything = False
        self._users: set[str] = set()
        #: The texts that stand for single addresses: each itself, its network and its site.
        self._hosts: dict[Network, tuple[str, str, str]] = {}
        #: By version and length: the leading bits of networks.
        self._networks: dict[tuple[int, int], set[int]] = {}
        #: Bans that were in memory, and are lifted.
        self._lifted: set[tuple[Kind, str]] = set()

    def add_request(self, network: Network | None, user: str | None, everything: bool) -> bool:
        """Remember which bans are lifted, whatever the file has. Return False if too many requests wait.

        Which ones a network or a user name means, `admin.api.bans.concerns` says.
        """
        if len(self._users) + len(self._hosts) + sum(map(len, self._networks.values())) >= MOST:
            return False
        self._everything |= everything
        if user is not None:
            self._users.add(user)
        if network is not None and network.prefixlen == network.max_prefixlen:
            address = network.network_address
            self._hosts[network] = str(address), addresses.network(address), addresses.site(address)
        elif network is not None:
            self._networks.setdefault((network.version, network.prefixlen), set()).add(
                _bits(network, network.prefixlen)
            )
        return True

    def add(self, kind: Kind, subject: str) -> None:
        """Remember that a ban which was known is lifted."""
        self._lifted.add((kind, subject))

    def is_known(self, ban: Ban) -> bool:
        """Return whether a ban is lifted that was known before the file could be read."""
        return (ban.kind, ban.subject) in self._lifted

    def apply(self, bans: Iterable[Ban]) -> Iterator[tuple[Ban, bool]]:
        """Yield the bans of the file, and whether each is lifted."""
        texts = {text for each in self._hosts.values() for text in each}
        for ban in bans:
            yield ban, self._everything or self.is_known(ban) or ban.user in self._users or self._is_in(ban, texts)

    def _is_in(self, ban: Ban, texts: set[str]) -> bool:
        if ban.kind not in ("address", "network", "site") or not (texts or self._networks):
            return False
        text = ban.subject.partition(" ")[0]
        try:
            own = ipaddress.ip_network(text)
        except ValueError:
            return False
        return text in texts or any(
            version == own.version and length <= own.prefixlen and _bits(own, length) in found
            for (version, length), found in self._networks.items()
        )

    def clear(self) -> None:
        """Forget everything: the file was read."""
        self._everything = False
        self._users.clear()
        self._hosts.clear()
        self._networks.clear()
        self._lifted.clear()


def _bits(network: Network, length: int) -> int:
    return int(network.network_address) >> (network.max_prefixlen - length)
