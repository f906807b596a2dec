"""The connections to the servers of a directory, and which server is asked: Pool."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal, TypeVar

from twisted.logger import Logger

from ftpsd.accounts.sources.deadline import Deadline
from ftpsd.accounts.sources.ldap.connection import Connection, ServerFailed, Tls
from ftpsd.accounts.sources.ldap.diagnosis import explain
from ftpsd.accounts.sources.source import SourceFailed

log = Logger(namespace="ftpsd")

T = TypeVar("T")

#: What a connection is used for. Searches of the service never go over a connection on which a user has logged in.
Use = Literal["search", "login"]

#: Seconds for which a server that has failed is asked only after the others.
_AVOIDED = 30.0

#: Seconds after which an idle connection is not used again: a firewall may have forgotten it without a word.
_LONGEST_IDLE = 60.0

#: Seconds after which a connection is not used again, so that its certificate and its login do not get too old.
_LONGEST_LIFE = 900.0


class Server:
    """One server: whether and until when it is avoided, and the idle connections. The pool's lock guards them."""

    def __init__(self, url: str, tls: Tls) -> None:
        self.url = url
        self.tls = tls
        self.failed = False
        self.avoided_until = 0.0
        self.idle: dict[Use, list[Connection]] = {"search": [], "login": []}

    def take(self, use: Use) -> list[Connection]:
        """Remove the idle connections for a use, and return them."""
        found, self.idle[use] = self.idle[use], []
        return found


class Pool:
    """Connections that are used again. `prepare` logs in the service on each new connection for searches.

    Servers are asked in their order. One that fails is asked after the others for half a minute, so that logins do not
    wait for it. Each server has an equal part of the time that is left, so that the last one can still answer.
    """

    def __init__(self, servers: list[Server], prepare: Callable[[Connection, Deadline], None]) -> None:
        self._servers = servers
        self._prepare = prepare
        self._lock = threading.Lock()
        self._closed = False

    def run(self, use: Use, deadline: Deadline, job: Callable[[Connection, Deadline], T]) -> T:
        """Return what a job returns that uses one connection. Raises SourceFailed, or what the job raises.

        The job runs again with the next server if it raises ServerFailed.
        """
        failures = []
        servers = self._order()
        for index, server in enumerate(servers):
            if not deadline.remaining:
                failures.append("no answer in time")
                break
            part = deadline.part(len(servers) - index)
            try:
                return self._run(server, use, part, job)
            except ServerFailed as error:
                failures.append(self._avoid(server, error, part))
        raise SourceFailed("; ".join(failures))

    def check(self, deadline: Deadline, job: Callable[[Connection, Deadline], object]) -> None:
        """Run a job on a new connection to each server. Raises SourceFailed if all of them fail."""
        failures = []
        for index, server in enumerate(self._servers):
            part = deadline.part(len(self._servers) - index)
            try:
                self._use(server, "search", self._connect(server, "search", part), part, job)
            except ServerFailed as error:
                failures.append(self._avoid(server, error, part))
        if len(failures) == len(self._servers):
            raise SourceFailed("; ".join(failures))

    def close(self) -> None:
        """Close all idle connections. Those in use are closed when their job ends."""
        with self._lock:
            self._closed = True
            idle = [each for server in self._servers for use in server.idle for each in server.take(use)]
        for connection in idle:
            connection.close()

    # --- servers -----------------------------------------------------------------------------------

    def _order(self) -> list[Server]:
        """Return all servers, those last that have failed. One whose time is over is tried again by one caller."""
        now = time.monotonic()
        with self._lock:
            good = [each for each in self._servers if each.avoided_until <= now]
            for each in good[:1]:
                if each.avoided_until:
                    each.avoided_until = now + _AVOIDED
            return good + [each for each in self._servers if each not in good]

    def _avoid(self, server: Server, error: ServerFailed, deadline: Deadline) -> str:
        """Ask a server that has failed only after the others. Return its URL and why it has failed."""
        # The library seldom knows why a connection or a handshake fails.
        reason = None if error.timed_out else explain(server.url, server.tls, deadline)
        text = f"{server.url}: {reason or error}"
        with self._lock:
            is_new, server.failed = not server.failed, True
            server.avoided_until = time.monotonic() + _AVOIDED
            idle = [each for use in server.idle for each in server.take(use)]
        for connection in idle:
            connection.close()
        if is_new:
            log.warn("LDAP server {text}", text=text, log_once=True)
        return text

    # --- connections -------------------------------------------------------------------------------

    def _run(self, server: Server, use: Use, deadline: Deadline, job: Callable[[Connection, Deadline], T]) -> T:
        idle = self._idle(server, use)
        if idle is not None:
            try:
                return self._use(server, use, idle, deadline, job)
            except ServerFailed as error:
                if error.timed_out:
                    raise
        return self._use(server, use, self._connect(server, use, deadline), deadline, job)

    def _idle(self, server: Server, use: Use) -> Connection | None:
        """Return an idle connection that is not too old; close those that are."""
        now = time.monotonic()
        with self._lock:
            idle = server.take(use)
            good = [e for e in idle if now - e.last_used < _LONGEST_IDLE and now - e.since < _LONGEST_LIFE]
            found = good.pop() if good else None
            server.idle[use] = good
        for connection in idle:
            if connection is not found and connection not in good:
                connection.close()
        return found

    def _connect(self, server: Server, use: Use, deadline: Deadline) -> Connection:
        connection = Connection(server.url, server.tls, deadline)
        if use == "search":
            try:
                self._prepare(connection, deadline)
            except BaseException:
                connection.close()
                raise
        return connection

    def _use(
        self,
        server: Server,
        use: Use,
        connection: Connection,
        deadline: Deadline,
        job: Callable[[Connection, Deadline], T],
    ) -> T:
        try:
            result = job(connection, deadline)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            is_new, server.failed = server.failed, False
            server.avoided_until = 0.0
            keep = not self._closed
            if keep:
                server.idle[use].append(connection)
        if not keep:
            connection.close()
        if is_new:
            log.info("LDAP server {url} answers again", url=server.url, log_once=True)
        return result
