"""Answer requests on a Unix socket, each in a process of its own: Server."""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NoReturn

from ftpsd.helper import messages
from ftpsd.helper.descendants import kill_tree
from ftpsd.helper.messages import LONGEST_REQUEST, InvalidRequest, Request

#: Bytes of a `struct ucred`: process, user, group.
_CREDENTIALS = struct.Struct("=iII")

#: Seconds to wait after a connection that could not be accepted.
_PAUSE = 1.0

#: Seconds behind the deadline after which a process ends itself.
_GRACE = 2.0


@dataclass(slots=True)
class _Running:
    """A process that answers a request. `descriptor` is readable when it has ended."""

    process: int
    descriptor: int
    deadline: float
    is_late: bool = False


class Server:
    """Accepts connections of `users` on a listening socket. Each request has `timeout` seconds.

    A process that PAM keeps longer is killed, together with the programs that its modules have started. If this process
    does not get to it, that one is killed by its own SIGALRM. At most `processes` run; further connections wait in the
    socket.
    """

    def __init__(
        self,
        listener: socket.socket,
        users: Collection[int],
        answer: Callable[[Request], bytes],
        timeout: float,
        processes: int,
    ) -> None:
        self._listener = listener
        self._users = users
        self._answer = answer
        self._timeout = timeout
        self._most = processes
        self._running: list[_Running] = []

    def run(self, seconds: float = math.inf) -> None:
        """Answer requests: for ever, or for some seconds."""
        end = time.monotonic() + seconds
        while (is_open := time.monotonic() < end) or self._running:
            listener = self._listener.fileno()
            wanted = [each.descriptor for each in self._running]
            if is_open and len(wanted) < self._most:
                wanted.append(listener)
            ready = select.select(wanted, [], [], self._patience(end if is_open else math.inf))[0]
            self._reap()
            self._end_late()
            if listener in ready:
                self._accept()

    def _patience(self, end: float) -> float | None:
        """Return the seconds until the first request is late, or until `end`; None if neither will be."""
        first = min([end, *(each.deadline for each in self._running if not each.is_late)])
        return None if first == math.inf else max(0.0, first - time.monotonic())

    def _reap(self) -> None:
        """Forget the processes that have ended."""
        for each in list(self._running):
            process, status = os.waitpid(each.process, os.WNOHANG)
            if not process:
                continue
            self._running.remove(each)
            os.close(each.descriptor)
            if os.WIFSIGNALED(status):
                number = os.WTERMSIG(status)
                is_late = each.is_late or number == signal.SIGALRM
                reason = f"gave no answer within {self._timeout:g} seconds" if is_late else f"ended by {_name(number)}"
                log(f"a request was not answered: PAM {reason}")

    def _end_late(self) -> None:
        """Kill the processes that are late, and the programs that modules have started in them."""
        now = time.monotonic()
        for each in self._running:
            if not each.is_late and each.deadline <= now:
                each.is_late = True
                kill_tree(each.process)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            log(f"a connection was not accepted: {error.strerror}")
            time.sleep(_PAUSE)  # the connection still waits
            return
        with connection:
            user = _user_of(connection)
            if user not in self._users:
                log(f"a connection of the user with the number {user} was refused")
                return
            try:
                process = os.fork()
            except OSError as error:
                log(f"a request was not answered: {error.strerror}")
                return
            if not process:
                self._serve(connection)
            deadline = time.monotonic() + self._timeout
            try:
                self._running.append(_Running(process, os.pidfd_open(process), deadline))
            except OSError as error:
                log(f"a request was not answered: {error.strerror}")
                kill_tree(process)
                os.waitpid(process, 0)

    def _serve(self, connection: socket.socket) -> NoReturn:
        """Answer one request, in the new process."""
        try:
            for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, self._timeout + _GRACE)
            self._listener.close()
            try:
                reply = self._answer(_receive(connection))
            except InvalidRequest as error:
                reply = messages.failed(f"invalid request: {error}")
            connection.sendall(reply)
        except OSError:
            pass  # the daemon does not wait for the answer any more
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)


def _name(number: int) -> str:
    """Return the name of a signal. Most real-time signals have none."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _receive(connection: socket.socket) -> Request:
    data = b""
    while not messages.is_complete(data):
        piece = connection.recv(LONGEST_REQUEST)
        data += piece
        if not piece or len(data) > LONGEST_REQUEST:
            raise InvalidRequest("it is too long" if piece else "it is cut")
    return messages.parse(data)


def _user_of(connection: socket.socket) -> int:
    """Return the number of the user whose process has connected."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(data)[1])


def log(text: str) -> None:
    """Write a line to the log: standard error, which systemd gives to the journal."""
    print(f"ftpsd-pam-helper: {text}", file=sys.stderr, flush=True)
