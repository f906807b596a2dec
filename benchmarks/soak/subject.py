"""The daemon under load, as the tests start it, and what can be seen of it from outside and through its window."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import memory
from ftpsd.storage.local.part_files import PRIVATE
from tests.daemon import Daemon

LISTENING, ESTABLISHED = "0A", "01"
#: What systemd is told then.
NOBODY = "0 sessions"
#: Seconds in which the daemon must have looked out of its window.
LONGEST_LOOK = 60.0


#: Objects and timers that outlive sessions on purpose: the credit and the log budget of the networks that clients came
#: from, of 10,000 at most.
REMEMBERED = ("scheduler.ClientGroup", "token_bucket.TokenBucket", "LogBudget._report")


@dataclass
class Held:
    """What the daemon holds at one moment."""

    files: int
    threads: int
    listeners: int
    connections: int
    sessions: str
    watched: int
    #: Blocks of Python's allocator, and bytes of the C library's: what grows here without an end is a leak.
    blocks: int
    heap: int
    timers: Counter[str] = field(default_factory=Counter)
    objects: Counter[str] = field(default_factory=Counter)

    def beyond(self, before: Held) -> dict[str, Any]:
        """What is left over in comparison with `before`: empty if there is nothing."""
        left: dict[str, Any] = {}
        for name in ("files", "threads", "listeners", "connections", "watched"):
            if (more := getattr(self, name) - getattr(before, name)) > 0:
                left[name] = more
        if self.sessions != NOBODY:
            left["status"] = self.sessions
        for name in ("timers", "objects"):
            more = getattr(self, name) - getattr(before, name)
            if more := {what: count for what, count in more.items() if not what.endswith(REMEMBERED)}:
                left[name] = more
        return left


class Subject(Daemon):
    """`Daemon` with a window, and with systemd's ear at its status line."""

    def __init__(self, directory: Path, certificate: Path, settings: dict[str, Any], users: dict[str, Any]) -> None:
        super().__init__(directory, certificate, settings, users)
        low, _, high = self.settings["passive"]["ports"].partition("-")
        self.passive = int(low), int(high)
        self._window = directory / "window"
        self._window.touch()
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ear.bind(str(directory / "notify"))
        #: What `systemctl status` would show last.
        self.status = ""
        threading.Thread(target=self._listen, daemon=True).start()

    def command(self) -> list[str]:
        """See Daemon."""
        notify = ["env", f"NOTIFY_SOCKET={self.directory / 'notify'}"]
        return [*notify, sys.executable, "-m", "benchmarks.soak.inside", str(self._window), *super().command()[3:]]

    def stop(self) -> None:
        """See Daemon."""
        super().stop()
        self._ear.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        with self._ear:
            while data := self._ear.recv(4096):
                for line in data.decode().splitlines():
                    if line.startswith("STATUS="):
                        self.status = line.removeprefix("STATUS=")

    def settled(self) -> Held:
        """What is held when all clients have gone."""
        deadline = time.monotonic() + LONGEST_LOOK
        while self.status != NOBODY and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.held()

    def held(self) -> Held:
        """Looks at the process, then through the window."""
        process = Path(f"/proc/{self.pid}")
        states = self._states(process / "net/tcp")
        before = self._look()
        os.kill(self.pid, signal.SIGUSR2)
        deadline = time.monotonic() + LONGEST_LOOK
        while (view := self._look()).get("look") in (None, before.get("look")):
            if time.monotonic() > deadline:
                raise TimeoutError("the daemon does not look out of its window")
            time.sleep(0.02)
        return Held(
            self.open_files(),
            len(os.listdir(process / "task")),
            states[LISTENING],
            states[ESTABLISHED],
            self.status,
            view["watched"],
            view["blocks"],
            view["heap"],
            Counter(view["timers"]),
            Counter(view["objects"]),
        )

    def _look(self) -> dict[str, Any]:
        try:
            view: dict[str, Any] = json.loads(self._window.read_text())
        except ValueError:
            return {}  # it is being written
        return view

    def _states(self, table: Path) -> Counter[str]:
        """Listeners on passive ports, and connections that stand on any port of ours."""
        states: Counter[str] = Counter()
        for row in table.read_text().splitlines()[1:]:
            fields = row.split()
            port = int(fields[1].partition(":")[2], 16)
            passive = self.passive[0] <= port <= self.passive[1]
            if passive or (port in (self.port, self.implicit_port) and fields[3] == ESTABLISHED):
                states[fields[3]] += 1
        return states

    def left_over(self, before: Held, seconds: float) -> dict[str, Any]:
        """What is still held after `seconds` that was not before; sooner if there is nothing."""
        deadline = time.monotonic() + seconds
        while (left := self.held().beyond(before)) and time.monotonic() < deadline:
            time.sleep(0.25)
        return left

    def proportional(self) -> int:
        """Bytes of memory, in proportional set size."""
        return memory([self.pid])

    def parts(self) -> list[str]:
        """The parts of uploads that are on the disk."""
        return [path.name for path in (self.directory / "homes").rglob(PRIVATE + "*")]

    def mistakes(self) -> int:
        """How often its log tells of a mistake of its own."""
        with self.log_file.open(errors="replace") as log:
            return sum("Traceback" in line for line in log)
