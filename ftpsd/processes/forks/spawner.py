"""The process that forks workers: it has one thread, no sandbox, and everything imported that a worker needs.

The supervisor cannot fork them itself: it has threads, whose locks a forked process would inherit in any state, and a
sandbox without the homes of users. So it forks this process when it starts, and asks it for workers.

It loads the configuration when the supervisor does. A worker is forked with the configuration in its memory: it starts
in milliseconds, shares that memory with the others, and starts also while the files have a fault.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import cast

from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.processes.forks import datagrams
from ftpsd.processes.forks.forking import close_inherited, end_process, fork_alone, name_process
from ftpsd.processes.forks.output import Output
from ftpsd.system.memory import garbage

#: Runs a worker to its end: its index, the configuration, and its sockets: the link, and the one for connections.
RunWorker = Callable[[int, load.Configuration, list[socket.socket]], None]

#: The sockets of a worker: see `RunWorker`.
_SOCKETS = 2


def fork_spawner(
    path: str, configuration: load.Configuration, run_worker: RunWorker, output: Output, *kept: int
) -> tuple[int, socket.socket]:
    """Fork the process, and return its number and the socket to it. It and the workers keep some descriptors open."""
    output.open()
    ours, theirs = datagrams.pair()
    pid = fork_alone()
    if pid == 0:
        with end_process():
            ours.close()
            output.use()
            _Spawner(theirs, path, configuration, run_worker).run(kept)
    theirs.close()
    output.start()
    return pid, ours


class _Spawner:
    """What the spawner process does until the supervisor has ended."""

    def __init__(
        self, supervisor: socket.socket, path: str, configuration: load.Configuration, run_worker: RunWorker
    ) -> None:
        self._supervisor = supervisor
        self._path = path
        self._configuration = configuration
        #: What the last load has made, until the supervisor uses it.
        self._loaded: load.Configuration | None = None
        self._run_worker = run_worker
        #: The workers that have not ended: their process numbers by descriptors of the processes (pidfd_open(2)).
        self._workers: dict[int, int] = {}

    def run(self, kept: Collection[int]) -> None:
        """Serve the supervisor until it has gone. Keep some descriptors open for the workers."""
        name_process("ftpsd spawner")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        close_inherited({self._supervisor.fileno(), *kept})
        garbage.keep_all()  # a collection in a worker would write into each object, and so copy all pages
        while self._serve():
            pass

    def _serve(self) -> bool:
        """Wait for what happens next. Return False when the supervisor has gone."""
        poll = select.poll()
        for descriptor in (self._supervisor.fileno(), *self._workers):
            poll.register(descriptor, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll()]
        for descriptor in self._workers.keys() & set(ready):
            self._reap(descriptor)
        return self._supervisor.fileno() not in ready or self._obey()

    def _reap(self, descriptor: int) -> None:
        pid = self._workers.pop(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        self._tell("ended", pid, os.waitstatus_to_exitcode(status))

    def _tell(self, *message: object) -> None:
        try:
            datagrams.send(self._supervisor, message)
        except OSError:
            pass  # the supervisor has gone, which the next poll shows

    def _obey(self) -> bool:
        try:
            found = datagrams.receive(self._supervisor)
        except OSError:
            found = None
        if found is None:
            return False
        (name, *arguments), sockets = cast(list[object], found[0]), found[1]
        if name == "fork":
            index, with_loaded = cast(tuple[int, bool], arguments)
            configuration = (with_loaded and self._loaded) or self._configuration
            self._start(index, configuration, sockets)
        elif name == "load":
            self._tell("loaded", arguments[0], self._load())
        elif name == "waited":
            number, pid = cast(tuple[int, int], arguments)
            self._tell("waited", number, _seconds_waited(pid))
        elif self._loaded is not None:  # "use"
            self._configuration, self._loaded = self._loaded, None
        return True

    def _load(self) -> list[str]:
        """Load the configuration again, and return its faults."""
        try:
            self._loaded = load.load(self._path)
        except InvalidConfiguration as error:
            return [*map(str, error.faults)]
        garbage.keep_all()
        return []

    def _start(self, index: int, configuration: load.Configuration, sockets: list[socket.socket]) -> None:
        """Fork a worker, and tell the supervisor, also if that fails: it tries again later."""
        try:
            if len(sockets) < _SOCKETS:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            pid, descriptor = self._fork(index, configuration, sockets)
        except OSError as error:
            self._tell("failed", index, error.strerror)
        else:
            self._workers[descriptor] = pid
            self._tell("forked", index, pid)
        finally:
            for each in sockets:
                each.close()

    def _fork(self, index: int, configuration: load.Configuration, sockets: list[socket.socket]) -> tuple[int, int]:
        """Fork a worker. Return its process number, and a descriptor of the process. Raises OSError."""
        pid = fork_alone()
        if pid == 0:
            with end_process():
                self._supervisor.close()
                for descriptor in self._workers:
                    os.close(descriptor)
                name_process(f"ftpsd worker {index}")
                self._run_worker(index, configuration, sockets)
        try:
            return pid, os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise


def _seconds_waited(pid: int) -> float:
    """Return how long the first thread of a process has waited for a processor; 0 if the kernel does not tell."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
