"""Take the sockets that systemd passes (sd_listen_fds(3)). Without systemd there are none."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import NamedTuple

from ftpsd.protocol.addresses import Address, plain_address
from ftpsd.system.systemd import descriptor_store

#: The first descriptor that systemd passes (SD_LISTEN_FDS_START).
_FIRST = 3

#: How the names of listening sockets begin in the descriptor store.
LISTENER = "listener-"


class Inherited(NamedTuple):
    """A listening socket that systemd has passed to the daemon."""

    descriptor: int
    family: int
    address: Address
    port: int


def inherited_listeners() -> list[Inherited]:
    """Return all listening sockets for TCP that systemd has passed to this process, because a socket unit wants it."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    left = descriptor_store.passed().values()
    numbers = range(_FIRST, _FIRST + int(os.environ.get("LISTEN_FDS", "0")))
    return _listeners(number for number in numbers if number not in left)


def left_listeners() -> list[Inherited]:
    """Return the listening sockets that the last process of the service has left for this one."""
    return _listeners(number for name, number in descriptor_store.passed().items() if name.startswith(LISTENER))


def _listeners(descriptors: Iterable[int]) -> list[Inherited]:
    found = []
    for descriptor in descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as probe:
            if probe.family in (socket.AF_INET, socket.AF_INET6):
                os.set_blocking(descriptor, False)  # Twisted accepts until it would block
                host, port = probe.getsockname()[:2]
                found.append(Inherited(descriptor, probe.family, plain_address(host), port))
    return found


def choose(listeners: Iterable[Inherited], address: str, port: int) -> Inherited | None:
    """Return the socket for an entry of `listen`, or None.

    That is the socket with the same address (or with any unspecified address, if the entry has one); else the only
    socket on that port.
    """
    wanted = plain_address(address)
    same_port = [each for each in listeners if each.port == port]
    for each in same_port:
        if each.address == wanted or (each.address.is_unspecified and wanted.is_unspecified):
            return each
    return same_port[0] if len(same_port) == 1 else None
