"""What connections have in common that are no session yet: IncomingConnection."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Protocol


class IncomingConnection(Protocol):
    """A connection that is no session, or not yet."""

    transport: Any

    def hand_over(self, protocol: Protocol, early: bytes = b"") -> None:
        """Let another protocol take this one's place. `early` are bytes of the client that have arrived before."""
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)
        if early:
            protocol.dataReceived(early)
