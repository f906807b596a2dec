"""Notify systemd (sd_notify(3)). Without systemd, that does nothing."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable

from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.reactor import Clock

#: Seconds for the daemon to exit after `timeouts.drain`, until systemd kills it.
MARGIN = 30


class Notifier:
    """Sends READY, RELOADING, STOPPING, a status line, and the heartbeat of the watchdog.

    `sessions` returns the number of sessions, which is part of the status.
    """

    def __init__(self, clock: Clock, sessions: Callable[[], int]) -> None:
        self._address = re.sub("^@", "\0", os.environ.get("NOTIFY_SOCKET", ""))
        self._sessions = sessions
        #: What the status says before the number of sessions.
        self._note = ""
        #: The number of sessions in the status that systemd has; empty if it does not have the latest.
        self._sent_count = ""
        self._heartbeat = PeriodicTask(clock, "the heartbeat for systemd", self._send_heartbeat)

    def ready(self, note: str = "") -> None:
        """Tell systemd that the start or a reload has ended. The status begins with `note` until the next call."""
        self._note = note
        self._send("READY=1", self._status())
        if self._address and not self._heartbeat.running:
            self._heartbeat.start(1, now=False)

    def reloading(self) -> None:
        """A reload begins."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, seconds: int) -> None:
        """Report that the daemon stops within so many seconds. Heartbeats continue until `stop`."""
        self._note = "stopping when running transfers have finished"
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={(seconds + MARGIN) * 1_000_000}", self._status())

    def stop(self) -> None:
        """Send no more heartbeats."""
        self._heartbeat.stop()

    def _status(self) -> str:
        count = self._sessions()
        self._sent_count = f"{count} session{'' if count == 1 else 's'}"
        return f"STATUS={self._note + ' - ' if self._note else ''}{self._sent_count}"

    def _send_heartbeat(self) -> None:
        before, status = self._sent_count, self._status()
        if not self._send("WATCHDOG=1", *([status] if self._sent_count != before else []), timeout=0):
            self._sent_count = ""  # the next heartbeat sends the status again

    def _send(self, *lines: str, timeout: float = 1) -> bool:
        """Send a message; return whether systemd's socket took it within `timeout` seconds.

        The reactor waits meanwhile, so a heartbeat has no timeout.
        """
        if not self._address:
            return True
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(timeout)
            message = "\n".join(line.replace("\n", " ") for line in lines)
            try:
                sender.sendto(message.encode("utf-8", "replace"), self._address)
            except OSError:
                return False  # systemd restarts the daemon if heartbeats do not arrive
        return True
