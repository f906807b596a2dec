"""What systemd is told (sd_notify(3)), and the sockets that it hands over (sd_listen_fds(3)). Elsewhere: nothing."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ftpsd.protocol.parsing import Address, plain_address
from ftpsd.system.periodic import periodic
from ftpsd.system.reactor import Clock

#: The first descriptor that is handed over.
_FIRST = 3


#: Seconds that the end itself may take, behind the last transfer.
MARGIN = 30


class Notifier:
    """READY, RELOADING, STOPPING, a status line, and the watchdog's heartbeat."""

    def __init__(self, clock: Clock, sessions: Callable[[], int]) -> None:
        self._address = re.sub("^@", "\0", os.environ.get("NOTIFY_SOCKET", ""))
        self._sessions = sessions
        self._trouble = ""
        self._told = ""
        self._heartbeat = periodic(clock, "the heartbeat for systemd", self._beat)

    def ready(self, trouble: str = "") -> None:
        """The service is up, or back from reloading; `trouble` stands in its status until the next time."""
        self._trouble = trouble
        self._tell("READY=1", self._status())
        if self._address and not self._heartbeat.running:
            self._heartbeat.start(1, now=False)

    def reloading(self) -> None:
        """The configuration is being read again."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, seconds: int) -> None:
        """No new sessions; the heartbeat goes on while transfers end, which may take so many seconds."""
        self._trouble = "ending; transfers that run are let go on"
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={(seconds + MARGIN) * 1_000_000}", self._status())

    def stop(self) -> None:
        """No more heartbeats."""
        if self._heartbeat.running:
            self._heartbeat.stop()

    def _status(self) -> str:
        count = self._sessions()
        self._told = f"{count} session{'' if count == 1 else 's'}"
        return f"STATUS={self._trouble + ' - ' if self._trouble else ''}{self._told}"

    def _beat(self) -> None:
        before, status = self._told, self._status()
        if not self._tell("WATCHDOG=1", *([status] if self._told != before else []), patience=0):
            self._told = ""  # the next one says it

    def _tell(self, *lines: str, patience: float = 1) -> bool:
        """Whether it was taken within so many seconds. Everybody waits meanwhile: a heartbeat is not worth that."""
        if not self._address:
            return True
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(patience)
            try:
                sender.sendto(
                    "\n".join(line.replace("\n", " ") for line in lines).encode("utf-8", "replace"), self._address
                )
            except OSError:
                return False  # nobody listens: the watchdog will tell
        return True


class Inherited(NamedTuple):
    """A listening socket that systemd has handed over."""

    descriptor: int
    family: int
    address: Address
    port: int


def inherited_listeners() -> list[Inherited]:
    """All of them (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    found = []
    for descriptor in range(_FIRST, _FIRST + int(os.environ.get("LISTEN_FDS", "0"))):
        with socket.socket(fileno=os.dup(descriptor)) as probe:
            if probe.family in (socket.AF_INET, socket.AF_INET6):
                os.set_blocking(descriptor, False)  # Twisted accepts until it would block
                host, port = probe.getsockname()[:2]
                found.append(Inherited(descriptor, probe.family, plain_address(host), port))
    return found


def choose(listeners: Iterable[Inherited], address: str, port: int) -> Inherited | None:
    """The one for an entry of `listen`: the same address, or both stand for all; else the only one on that port."""
    wanted = plain_address(address)
    there = [each for each in listeners if each.port == port]
    for each in there:
        if each.address == wanted or (each.address.is_unspecified and wanted.is_unspecified):
            return each
    return there[0] if len(there) == 1 else None
