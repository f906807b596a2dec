"""The sessions that have lately left a shared port without a connection: Departed."""

from __future__ import annotations

import time
from collections import deque
from weakref import ReferenceType, ref

from attrs import frozen

from ftpsd.data.passive.peers import ClientPeers, Origin
from ftpsd.protocol.login_rules import Network

#: Seconds for which a connection may still be under way after its session has left. The first packet is sent again
#: after a second if it was lost.
LATE = 3.0


@frozen
class _Gone:
    """The last time that a session has left, and its first place since it is remembered."""

    since: float
    number: int
    origin: Origin
    networks: tuple[Network, ...]


class Departed:
    """Remembers them for `LATE` seconds, since their connections may still arrive. The caller holds a lock."""

    def __init__(self) -> None:
        #: In the order of their time.
        self._all: dict[ReferenceType[ClientPeers], _Gone] = {}
        self._by_origin: dict[Origin, dict[ReferenceType[ClientPeers], _Gone]] = {}
        #: Those to which other hosts than the client might connect.
        self._foreign: dict[ReferenceType[ClientPeers], _Gone] = {}
        #: All that have left, also with a connection, and when. The router knows a session by its tickets as long as
        #: the object exists, and a connection that resumes its TLS session belongs to no other one.
        self._kept: deque[tuple[float, ClientPeers]] = deque()

    def keep(self, session: ClientPeers) -> None:
        """Let a session that has left be known as long as its connections may arrive, also if it ends."""
        now = time.monotonic()
        self._kept.append((now, session))
        while self._kept[0][0] < now - LATE:
            self._kept.popleft()

    def add(self, session: ClientPeers, origin: Origin, number: int) -> None:
        """Note that a session has left the place with this number."""
        self._forget()
        key = ref(session)
        old = self._all.pop(key, None)
        gone = _Gone(time.monotonic(), number if old is None else old.number, origin, session.foreign_networks)
        self._all[key] = self._by_origin.setdefault(origin, {})[key] = gone
        if gone.networks:
            self._foreign[key] = gone

    def any(self, origin: Origin) -> bool:
        """Return whether a session of this origin that has left may be the owner of a connection."""
        self._forget()
        return origin in self._by_origin

    def other(self, origin: Origin, session: ClientPeers, before: float) -> bool:
        """Return whether another session than this one, announced before, may be the owner of a connection."""
        self._forget()
        if not self._all:
            return False
        own = ref(session)
        if any(key != own and each.number < before for key, each in self._by_origin.get(origin, {}).items()):
            return True
        return session.client != origin[0] and any(
            key != own
            and each.number < before
            and each.origin[1] == origin[1]
            and any(origin[0] in network for network in each.networks)
            for key, each in self._foreign.items()
        )

    def _forget(self) -> None:
        """Forget the sessions that left more than `LATE` seconds ago: no connection for them comes any more."""
        before = time.monotonic() - LATE
        while self._all:
            key, gone = next(iter(self._all.items()))
            if gone.since >= before:
                return
            del self._all[key]
            self._foreign.pop(key, None)
            others = self._by_origin[gone.origin]
            del others[key]
            if not others:
                del self._by_origin[gone.origin]
