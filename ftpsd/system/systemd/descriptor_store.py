"""Descriptors that systemd keeps while it restarts the service (sd_pid_notify_with_fds(3), "File Descriptor Store").

A daemon that is replaced by a newer release leaves its listeners and the connections to its workers there. They are
passed to the next process like the sockets of a socket unit, each with its name.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping

#: The prefix of the names, so that those of a socket unit are not taken for ours.
PREFIX = "ftpsd-"

#: The first descriptor that systemd passes (SD_LISTEN_FDS_START).
_FIRST = 3

#: Seconds for systemd to take a message.
_TIMEOUT = 5


class StoreFailed(Exception):
    """systemd does not take a descriptor: the daemon was not started by it, or it is too busy."""


def keep(name: str, descriptor: int) -> None:
    """Let systemd keep a copy of a descriptor, under a name. Raises StoreFailed.

    It closes the copy when the service stops and is not started again.
    """
    # FDPOLL=0: systemd must keep a connection also when its other end has gone, so that the names are complete.
    _send(f"FDSTORE=1\nFDNAME={PREFIX}{name}\nFDPOLL=0", [descriptor])


def remove(name: str) -> None:
    """Let systemd close its copies of the descriptors of a name. Raises StoreFailed."""
    _send(f"FDSTOREREMOVE=1\nFDNAME={PREFIX}{name}", [])


def passed(environment: Mapping[str, str] = os.environ) -> dict[str, int]:
    """Return the descriptors that the last process of the service has left, by name."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    return {
        name.removeprefix(PREFIX): _FIRST + position for position, name in enumerate(names) if name.startswith(PREFIX)
    }


def _send(message: str, descriptors: list[int]) -> None:
    address = re.sub("^@", "\0", os.environ.get("NOTIFY_SOCKET", ""))
    if not address:
        raise StoreFailed("NOTIFY_SOCKET is not set")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(_TIMEOUT)
        try:
            sender.connect(address)
            socket.send_fds(sender, [message.encode()], descriptors)
        except OSError as error:
            raise StoreFailed(error.strerror or str(error)) from None
