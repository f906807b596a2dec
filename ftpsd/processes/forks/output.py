"""What processes that were forked write to standard output and standard error: Output logs it.

That is nothing as a rule: they log by their link to the supervisor. An exception before the link is up comes here, and
so does what the interpreter or a C library says when it crashes.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from twisted.logger import LogEvent, Logger, LogLevel, eventAsText
from twisted.python.failure import Failure

from ftpsd.system.reactor import DelayedCall, Reactor
from ftpsd.system.twisted_private import replace_observers

log = Logger(namespace="ftpsd")

#: Bytes that are logged at once, and seconds to the next ones: a process that writes without end fills no disk.
PIECE = 16_384
INTERVAL = 0.1


#: What a line of the log begins with, with its level in between, and what stands for a line end in it.
_MARK, _LINE_END = "\x1e", "\x1f"

_LEVELS = {level.name: level for level in LogLevel.iterconstants()}


class Output:
    """A pipe from the forked processes to the log of the supervisor. For the reactor thread."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._read_end = self._write_end = -1
        self._next: DelayedCall | None = None

    def open(self) -> None:
        """Make the pipe, before the fork. Who writes into it never waits: what it cannot hold is lost."""
        self._read_end, self._write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def use(self) -> None:
        """In the forked process: write output and log lines to the pipe."""
        for number in (1, 2):
            os.dup2(self._write_end, number)

        def observe(event: LogEvent) -> None:
            text = eventAsText(event, includeTraceback=True, includeTimestamp=False, includeSystem=False)
            level = getattr(event.get("log_level"), "name", "info")
            line = f"{_MARK}{level}{_MARK}" + text.replace("\n", _LINE_END)
            with suppress(OSError):
                print(line, file=sys.__stderr__, flush=True)

        replace_observers(observe)

    def start(self) -> None:
        """In the supervisor, after the fork: log what comes."""
        os.close(self._write_end)
        self._reactor.addReader(self)

    def stop(self) -> None:
        """Log what has come, and close the pipe."""
        if self._read_end < 0:
            return
        self._log()
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._reactor.removeReader(self)
        os.close(self._read_end)
        self._read_end = -1

    def _log(self) -> bool:
        """Log the next piece. Return False at the end of the output."""
        try:
            data = os.read(self._read_end, PIECE)
        except BlockingIOError:
            return True
        self._log_text(data.decode("utf-8", "backslashreplace").rstrip())
        return bool(data)

    def _log_text(self, text: str) -> None:
        """Log output. Lines of the log keep their level; all else is logged as it came."""
        rest = []
        for line in filter(None, text.split("\n")):
            _, level, text = line.split(_MARK, 2) if line.count(_MARK) >= 2 else ("", "", line)
            if level in _LEVELS:
                log.emit(_LEVELS[level], "{text}", text=text.replace(_LINE_END, "\n"))
            else:
                rest.append(text)
        if rest:
            log.error("output of a worker process: {text}", text="\n".join(rest))

    # --- ReadDescriptor --------------------------------------------------------------------------

    def doRead(self) -> None:
        """Output has come."""
        self._reactor.removeReader(self)
        if self._log():
            self._next = self._reactor.callLater(INTERVAL, self._reactor.addReader, self)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._read_end

    def connectionLost(self, reason: Failure) -> None:
        """Do nothing: the reactor has removed the descriptor."""

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""
        return "output of workers"
