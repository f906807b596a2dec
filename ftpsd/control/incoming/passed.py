"""The listening sockets that systemd has passed to the daemon, and which of them are used: PassedSockets."""

from __future__ import annotations

import socket
from collections.abc import Set
from functools import cached_property

from ftpsd.system.systemd.sockets import Inherited, choose, inherited_listeners, left_listeners

#: The address and the port of an entry of `listen`.
Key = tuple[str, int]


class PassedSockets:
    """Sockets of a socket unit, which remain systemd's, and those that the last process of the service has left."""

    def __init__(self) -> None:
        self._used: dict[Key, Inherited] = {}

    @cached_property
    def _inherited(self) -> list[Inherited]:
        return inherited_listeners()

    @cached_property
    def _left(self) -> list[Inherited]:
        return left_listeners()

    @property
    def used(self) -> Set[Key]:
        """The entries of `listen` that use a socket of a socket unit."""
        return self._used.keys()

    def unused(self) -> list[Inherited]:
        """Return the sockets of a socket unit that no entry uses."""
        taken = self._used.values()
        return [each for each in self._inherited if each not in taken]

    def use(self, key: Key) -> Inherited | None:
        """Return the socket of a socket unit for an entry, if there is one."""
        found = choose(self.unused(), *key)
        if found is not None:
            self._used[key] = found
        return found

    def give_back(self, key: Key) -> None:
        """Note that an entry does not use its socket any more, if it has used one."""
        self._used.pop(key, None)

    def take_left(self, key: Key) -> socket.socket | None:
        """Return the socket for an entry that the last process has left, if there is one. The caller closes it."""
        found = choose(self._left, *key)
        if found is None:
            return None
        self._left.remove(found)
        return socket.socket(fileno=found.descriptor)

    def close_left(self) -> None:
        """Close what the last process has left, and no entry uses."""
        while self._left:
            socket.socket(fileno=self._left.pop().descriptor).close()
