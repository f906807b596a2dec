"""Count sessions, in all and per client network."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from ftpsd.config.settings import Limits
from ftpsd.limits.descriptors import descriptors_are_short
from ftpsd.protocol.addresses import Address, network

#: Why a connection does not become a session. undecided: the ledger has not answered in time. proxy: it has no PROXY
#: header that can be trusted.
RejectReason = Literal["banned", "stopping", "sessions", "sessions_per_address", "open_files", "undecided", "proxy"]


class SessionCounts:
    """How many sessions there are. The limits are an argument: they change with each reload."""

    def __init__(self) -> None:
        self.total = 0
        #: IPv6 counts by /64, as for bans: a single host has that many addresses.
        self._by_network: Counter[str] = Counter()
        #: Why no new session is admitted; empty while sessions are admitted.
        self.closed = ""

    def refusal(self, limits: Limits, client: Address) -> tuple[RejectReason, str] | None:
        """Return why one more session of this client is not admitted, as a word and as a reply, or None if it is."""
        if self.closed:
            return "stopping", self.closed
        if self.total >= limits.sessions:
            return "sessions", "Too many sessions: try again later."
        if self._by_network.get(network(client), 0) >= limits.sessions_per_address:
            return "sessions_per_address", "Too many sessions from your address: try again later."
        if descriptors_are_short():
            return "open_files", "Too many open files: try again later."
        return None

    def most_of_one_network(self) -> int:
        """Return how many sessions the client network with the most sessions has."""
        return max(self._by_network.values(), default=0)

    def add(self, client: Address) -> None:
        """Count a session that begins."""
        self.total += 1
        self._by_network[network(client)] += 1

    def remove(self, client: Address) -> None:
        """Count a session that has ended no longer."""
        self.total -= 1
        counted = network(client)
        self._by_network[counted] -= 1
        if not self._by_network[counted]:
            del self._by_network[counted]
