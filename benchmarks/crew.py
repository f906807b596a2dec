"""The client processes of one measurement: started, set off together, waited for, ended."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.job import Job, Tally

PACKAGE = Path(__file__).resolve().parent.parent
LONGEST = 900.0
"""Seconds after which a measurement that has not come to its end is given up."""


class WorkFailed(Exception):
    """A client process could not do its work, with the reason as one line."""


class Member:
    """One client process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,  # Ctrl-C is for the benchmark, which then ends them
        )
        self._unread = b""
        self.tell(job.to_json())

    def tell(self, word: str) -> None:
        """Send one line; a process that has ended says so when it is waited for."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(word.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def fileno(self) -> int:
        """Where its words come from, for a selector."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def hear(self) -> dict[str, Any] | None:
        """Read what there is; the event when its line is complete."""
        data = os.read(self.fileno(), 1 << 20)
        if not data:
            raise WorkFailed("a client process ended without a word")
        self._unread += data
        if not self._unread.endswith(b"\n"):
            return None
        event: dict[str, Any] = json.loads(self._unread)
        self._unread = b""
        if event["event"] == "failed":
            raise WorkFailed(event["reason"])
        return event

    def end(self) -> None:
        """Make sure that the process is gone."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Crew:
    """All client processes of one measurement; a context manager that leaves none behind."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._members: list[Member] = []
        try:
            for job in jobs:
                self._members.append(Member(job))
        except BaseException:
            self._end()
            raise
        self.front = [member for member in self._members if not member.job.background]
        self.back = [member for member in self._members if member.job.background]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for member in self._members:
            member.end()

    def _wait(self, members: Sequence[Member], every: Callable[[], None] | None = None) -> list[dict[str, Any]]:
        """One event from each of `members`, in their order; `every` is called four times a second meanwhile."""
        events: dict[int, dict[str, Any]] = {}
        limit = time.monotonic() + LONGEST
        with selectors.DefaultSelector() as selector:
            for member in self._members:
                if member in members:
                    selector.register(member, selectors.EVENT_READ, member)
            while len(events) < len(members):
                ready = selector.select(0.25)
                if not ready and every:
                    every()
                if time.monotonic() > limit:
                    raise WorkFailed(f"not done after {LONGEST:.0f} s")
                for key, _ in ready:
                    member = key.data
                    if event := member.hear():
                        events[member.fileno()] = event
                        selector.unregister(member)
        return [events[member.fileno()] for member in members]

    def get_ready(self) -> None:
        """Until every process stands before its work."""
        self._wait(self._members)

    def work(self, every: Callable[[], None]) -> tuple[list[Tally], list[Tally]]:
        """Set all off; what those in front did, and what those behind had done when the others were ready."""
        for member in self.back:
            member.tell("go")
        if self.back:
            time.sleep(0.5)
        for member in self.front:
            member.tell("go")
        front = self._wait(self.front, every)
        for member in self.back:
            member.tell("stop")
        back = self._wait(self.back)
        return [Tally(**event["tally"]) for event in front], [Tally(**event["tally"]) for event in back]

    def check(self) -> None:
        """Let those that worked in a session fetch everything again and look at every byte."""
        for member in self.front:
            member.tell("check")
            self._wait([member])

    def quit(self) -> None:
        """Let the sessions say QUIT."""
        for member in self.front:
            member.tell("quit")
        for member in self.front:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it is killed when the crew ends
                member.process.wait(10)
