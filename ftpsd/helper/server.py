"""Answer requests on a Unix socket, each in a process of its own: Server."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Collection
from typing import NoReturn

from ftpsd.helper import messages
from ftpsd.helper.messages import LONGEST_REQUEST, InvalidRequest, Request

#: Bytes of a `struct ucred`: process, user, group.
_CREDENTIALS = struct.Struct("=iII")

#: Seconds between two looks for processes that have ended.
_LOOK = 1.0


class Server:
    """Accepts connections of `users` on a listening socket. Each request has `timeout` seconds.

    A process that PAM keeps longer is killed by its own SIGALRM, which needs no cooperation of a module. At most
    `processes` run; further connections wait in the socket.
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
        self._processes: set[int] = set()

    def run(self) -> NoReturn:
        """Answer requests for ever."""
        while True:
            self._reap(block=len(self._processes) >= self._most)
            if select.select([self._listener], [], [], _LOOK if self._processes else None)[0]:
                self._accept()

    def _reap(self, block: bool) -> None:
        """Forget the processes that have ended. With `block`, wait for one of them."""
        while self._processes:
            process, status = os.waitpid(-1, 0 if block else os.WNOHANG)
            if not process:
                return
            self._processes.discard(process)
            block = False
            if os.WIFSIGNALED(status):
                number = os.WTERMSIG(status)
                is_late = number == signal.SIGALRM
                reason = f"gave no answer within {self._timeout:g} seconds" if is_late else f"ended by {_name(number)}"
                log(f"a request was not answered: PAM {reason}")

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            log(f"a connection was not accepted: {error.strerror}")
            time.sleep(_LOOK)  # the connection still waits
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
            if process:
                self._processes.add(process)
            else:
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> NoReturn:
        """Answer one request, in the new process."""
        try:
            for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, self._timeout)
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
