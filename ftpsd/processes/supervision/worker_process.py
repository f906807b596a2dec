"""One worker process, as the supervisor knows it: WorkerProcess."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ftpsd.figures.figures import WorkerState
from ftpsd.figures.merged import RunningWorker
from ftpsd.limits.ledger import SessionLease
from ftpsd.processes.forks import datagrams
from ftpsd.processes.handover import Connection, left_message
from ftpsd.protocol.addresses import Address
from ftpsd.system.link import Link
from ftpsd.system.reactor import Reactor

#: The beginnings of the names of descriptors that are left to the next supervisor; the index of the worker follows.
CHANNEL = "channel-"
PROCESS = "process-"

#: Seconds between two looks whether the process has ended.
_LOOK = 0.1


class WorkerProcess:
    """A worker that has not ended."""

    def __init__(self, index: int, link: Link, connections: socket.socket, started: float) -> None:
        connections.setblocking(False)
        #: Its number among the workers that have not ended.
        self.index = index
        self.link = link
        self.started = started
        self._since = time.time()
        self.state: WorkerState = "starting"
        #: Its process number; 0 until it was forked.
        self.pid = 0
        #: Why there is no process.
        self.failure = ""
        #: Heartbeats in a row that it has not answered.
        self.missed = 0
        #: How long it had waited for a processor when it missed the first one (None: not known), when that was, and how
        #: often it was spared for that.
        self.waited: float | None = None
        self.waited_at = 0.0
        self.spared = 0
        #: What its sessions count, by their numbers.
        self.leases: dict[int, SessionLease] = {}
        #: How many sessions each client has.
        self.clients: Counter[Address] = Counter()
        self._client_of: dict[int, Address] = {}
        #: The socket for connections.
        self.connections = connections
        #: Whether it belongs to the next supervisor now.
        self.left = False
        self._descriptor = -1
        self._killed = False
        #: Whether it has closed its end of the socket for connections.
        self.deaf = False

    @property
    def name(self) -> str:
        """The worker in the log."""
        return f"worker {self.index} (process {self.pid})"

    def description(self) -> RunningWorker:
        """Return what administration shows of it."""
        return RunningWorker(self.index, self.pid, self.state, self._since)

    def forked(self, pid: int) -> None:
        """Note that the process exists."""
        self.pid = pid
        try:
            self._descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return  # it has ended already
        except OSError as error:
            self.failure = error.strerror or "no descriptor"
            self.link.close()  # a process that no signal reaches: it ends when it has no supervisor
            return
        if self._killed:
            self.send_signal(signal.SIGKILL)

    def adopted(self, descriptor: int) -> None:
        """Note the pidfd (pidfd_open(2)) of a process that the last supervisor has left."""
        self._descriptor = descriptor
        self.pid = _process_number(descriptor)

    @property
    def is_watched(self) -> bool:
        """Whether this process can tell when it ends."""
        return self._descriptor >= 0

    def descriptors(self) -> dict[str, int]:
        """Return the descriptors that the next supervisor needs of this worker, by the beginning of their names."""
        return {CHANNEL: self.connections.fileno()} | ({} if self._descriptor < 0 else {PROCESS: self._descriptor})

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, never to another one that has got its process ID."""
        if self.left:
            return
        if self._descriptor >= 0:
            try:
                signal.pidfd_send_signal(self._descriptor, number)
            except ProcessLookupError:
                pass  # it has ended
        elif number == signal.SIGKILL:
            self._killed = True

    def await_end(self, reactor: Reactor, call: Callable[[WorkerProcess], object]) -> None:
        """Call back when the process has ended, or if it never was there. For one of which no spawner tells that."""
        poll = select.poll()
        if self._descriptor >= 0:
            poll.register(self._descriptor, select.POLLIN)
        if self._descriptor < 0 or poll.poll(0):
            call(self)
        else:
            reactor.callLater(_LOOK, self.await_end, reactor, call)

    def take(self, connection: Connection, descriptor: int, lease: SessionLease) -> bool:
        """Give it a connection. Return whether it can take more."""
        if not self.pass_on(connection.message(), descriptor):
            return False
        self.has(connection.number, connection.route.client, lease)
        return True

    def has(self, number: int, client: Address, lease: SessionLease) -> None:
        """Note that it has a session."""
        self.leases[number] = lease
        self._client_of[number] = client
        self.clients[client] += 1

    def pass_on(self, message: object, descriptor: int) -> bool:
        """Send a message with a descriptor. Return whether the worker can take it."""
        try:
            datagrams.send(self.connections, message, [descriptor])
        except OSError as error:
            self.deaf = isinstance(error, ConnectionError)
            return False
        return True

    def leave(self, successor: int, seconds: int) -> None:
        """Give it the connection to the next supervisor. Raises OSError. Send it no signals any more in any case."""
        self.left = True
        datagrams.send(self.connections, left_message(seconds), [successor])

    def sessions_ended(self, numbers: list[int]) -> None:
        """Some of its sessions have ended."""
        for number in numbers:
            lease = self.leases.pop(number, None)
            if lease is not None:
                client = self._client_of.pop(number)
                self.clients[client] -= 1
                if not self.clients[client]:
                    del self.clients[client]
                lease.release()

    def ended(self) -> None:
        """The process has ended: free what it has used."""
        self.sessions_ended(list(self.leases))
        self.connections.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _process_number(descriptor: int) -> int:
    """Return the process ID for a pidfd; 0 if the process has ended."""
    try:
        found = re.search(r"^Pid:\s+(\d+)$", Path(f"/proc/self/fdinfo/{descriptor}").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return 0 if found is None else int(found[1])
