"""The supervisor's end of the connection to the spawner: Spawner."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import cast

from twisted.internet.defer import Deferred

from ftpsd.config.load import Configuration
from ftpsd.processes.forks import datagrams
from ftpsd.processes.forks.datagrams import MessageReader
from ftpsd.processes.forks.output import Output
from ftpsd.processes.forks.spawner import fork_spawner
from ftpsd.processes.worker import run_worker
from ftpsd.system.reactor import Reactor

#: What the spawner says if it does not exist any more.
GONE = "the process that starts workers has ended"


class Spawner:
    """Lets the spawner fork workers, and load the configuration."""

    def __init__(self, reactor: Reactor, path: str) -> None:
        self._reactor = reactor
        self._path = path
        self._output = Output(reactor)
        self._pid = 0
        self._end: socket.socket | None = None
        self._reader: MessageReader | None = None
        self._numbers = itertools.count()
        self._loads: dict[int, Deferred[list[str]]] = {}
        self._waits: dict[int, Deferred[float | None]] = {}
        self._forked: Callable[[int, int], object] = lambda index, pid: None
        self._failed: Callable[[int, str], object] = lambda index, reason: None
        self._ended: Callable[[int, int], object] = lambda pid, status: None
        self._lost: Callable[[], object] = lambda: None

    def fork(self, configuration: Configuration, table: int) -> None:
        """Fork the spawner: before other threads begin, and before the sandbox.

        `table` is the descriptor of the table that all processes share.
        """
        run = partial(run_worker, self._path, table)
        self._pid, self._end = fork_spawner(self._path, configuration, run, self._output, table)

    def start(
        self,
        forked: Callable[[int, int], object],
        failed: Callable[[int, str], object],
        ended: Callable[[int, int], object],
        lost: Callable[[], object],
    ) -> None:
        """Begin to hear from the spawner.

        `forked` gets the index and the number of a process, `failed` the index of one that cannot be started, and the
        reason, `ended` the number and the exit status of one that has
        ended (negative: the signal). `lost` is called when the spawner itself has ended.
        """
        assert self._end is not None
        self._forked, self._failed, self._ended, self._lost = forked, failed, ended, lost
        self._reader = MessageReader(self._reactor, self._end, self._received, self._gone)

    def spawn(self, index: int, with_loaded: bool, sockets: list[socket.socket]) -> None:
        """Let the spawner fork a worker, and pass these sockets to it. Raises OSError if the spawner has ended.

        `with_loaded`: the worker gets the configuration of the last `load`, even before `use`.
        """
        assert self._end is not None
        datagrams.send(self._end, ["fork", index, with_loaded], [each.fileno() for each in sockets])

    def load(self) -> Deferred[list[str]]:
        """Let it load the configuration for later workers; return the faults."""
        number = next(self._numbers)
        answer: Deferred[list[str]] = Deferred()
        self._loads[number] = answer
        if not self._send("load", number):
            self._loaded(number, [GONE])
        return answer

    def seconds_waited(self, pid: int) -> Deferred[float | None]:
        """Return how long a process has waited for a processor since its start. This process may not see that.

        0 if the kernel does not tell; None if the spawner cannot be asked.
        """
        number = next(self._numbers)
        answer: Deferred[float | None] = Deferred()
        self._waits[number] = answer
        if not self._send("waited", number, pid):
            self._has_waited(number, None)
        return answer

    def use(self) -> None:
        """Let it use what it has loaded."""
        self._send("use")

    def stop(self) -> None:
        """End the spawner, which ends when nobody is connected to it."""
        if self._reader is not None:
            self._reader.close()
            self._reap()
        self._output.stop()

    def _send(self, *message: object) -> bool:
        """Send a message. Return whether that was possible: the spawner may have gone, or may be too busy to read."""
        assert self._end is not None
        try:
            datagrams.send(self._end, message)
        except OSError:
            return False
        return True

    def _received(self, message: object, _: list[socket.socket]) -> None:
        name, first, second = cast(list[object], message)
        if name == "forked":
            self._forked(cast(int, first), cast(int, second))
        elif name == "failed":
            self._failed(cast(int, first), cast(str, second))
        elif name == "ended":
            self._ended(cast(int, first), cast(int, second))
        elif name == "waited":
            self._has_waited(cast(int, first), cast(float, second))
        else:
            self._loaded(cast(int, first), cast(list[str], second))

    def _loaded(self, number: int, faults: list[str]) -> None:
        answer = self._loads.pop(number, None)
        if answer is not None:
            answer.callback(faults)

    def _has_waited(self, number: int, seconds: float | None) -> None:
        answer = self._waits.pop(number, None)
        if answer is not None:
            answer.callback(seconds)

    def _gone(self) -> None:
        self._reap()
        for number in [*self._loads]:
            self._loaded(number, [GONE])
        for number in [*self._waits]:
            self._has_waited(number, None)
        self._lost()

    def _reap(self) -> None:
        try:
            os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:
            pass
