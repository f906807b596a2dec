"""Give the data connections of shared ports to the workers that have the sessions: RemotePorts."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.config.settings import Settings
from ftpsd.data.passive.arrivals import Arrival, Arrivals
from ftpsd.data.passive.peers import Origin
from ftpsd.data.passive.routing import SPARE
from ftpsd.data.passive.shared_port import Strangers
from ftpsd.data.passive.shared_sockets import Key, shared_keys
from ftpsd.processes.ports.handed import DataConnection
from ftpsd.processes.supervision.worker_process import WorkerProcess
from ftpsd.processes.supervisor import Workers
from ftpsd.protocol.addresses import Address
from ftpsd.protocol.login_rules import Network
from ftpsd.protocol.replies import Refusal
from ftpsd.system.presence import within
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")


@frozen
class _Kept:
    """What a session keeps of the settings with which it began."""

    #: The sockets of the shared ports.
    keys: frozenset[Key] = frozenset()
    #: The networks of the proxies through which data connections may come.
    proxies: tuple[Network, ...] = ()
    #: The networks of other hosts whose data connections may be for the session.
    foreign_networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> _Kept:
        """Return what a session keeps of these settings."""
        listeners = settings.listen if settings.passive.proxy_protocol else ()
        proxies = [each.proxy_protocol.trusted for each in listeners if each.proxy_protocol is not None]
        keys = frozenset(shared_keys(settings))
        return cls(keys, tuple(network for each in proxies for network in each), settings.foreign_networks)


class RemotePorts:
    """The shared ports in the supervisor.

    All sessions of one client are in the same worker (see `Workers.hand_over`), so the client's address tells which
    worker gets a connection. Only while an old worker drains, two have sessions of a client: then they are asked, and
    if a session waits in both, only the ClientHello tells. `foreign_data` makes workers of other clients candidates.
    """

    def __init__(self, reactor: Reactor, workers: Workers) -> None:
        self.look: Callable[[int], object] = lambda port: None
        self._workers = workers
        self._reactor = reactor
        self._strangers = Strangers(reactor)
        #: Connections that may belong to sessions of several workers.
        self._peeked = Arrivals()
        self._settings: Settings | None = None
        self._current = _Kept()
        #: What sessions that began before a reload keep, and the highest number of such a session.
        self._old: dict[_Kept, int] = {}

    def use(self, settings: Settings) -> None:
        """Follow a configuration, which all workers use now. Sessions that run keep their ports."""
        if self._settings is not None:
            numbers = [max(worker.leases, default=0) for worker in self._workers.processes.values()]
            self._old[_Kept.of(self._settings)] = max(numbers, default=0)
        self._settings = settings
        self._current = _Kept.of(settings)
        self._workers.keep_clients_together = settings.passive.shared is not None

    @property
    def keys(self) -> set[Key]:
        """The sockets that some session may need."""
        oldest = min((min(each.leases) for each in self._workers.processes.values() if each.leases), default=None)
        self._old = {each: last for each, last in self._old.items() if oldest is not None and oldest <= last}
        return {key for each in (self._current, *self._old) for key in each.keys}

    def through_proxy(self, port: int, peer: Address) -> bool:
        """Return whether the connections of a host begin with a header, since it is a proxy that a session trusts."""
        return any(peer in network for each in (self._current, *self._old) for network in each.proxies)

    def arrived(self, port: int, connection: socket.socket, origin: Origin) -> None:
        """Give a new connection to the worker that has the client's sessions."""
        workers = list(self._workers.processes.values())
        own = [each for each in workers if each.clients[origin[0]]]
        others = [each for each in workers if each not in own] if self._is_foreign(origin[0]) else []
        if len(own) == 1 and not others:
            self._give(own[0], DataConnection(port, origin), connection)
        elif own or others:
            asking = Deferred.fromCoroutine(self._ask((own, others), DataConnection(port, origin), connection))
            asking.addErrback(_log_failure)
        else:
            connection.close()
            self._strangers.closed(port, origin[0])

    def _is_foreign(self, peer: Address) -> bool:
        """Return whether a host may connect for sessions of other hosts (`foreign_data`)."""
        return any(peer in network for each in (self._current, *self._old) for network in each.foreign_networks)

    async def _ask(
        self, groups: Iterable[list[WorkerProcess]], arrived: DataConnection, connection: socket.socket
    ) -> None:
        """Give a connection to the worker of which a session waits for it; if several do, by its ClientHello only."""
        with connection:
            for workers in groups:
                answers = await gatherResults([_call(each, "ports.waits", arrived.message()) for each in workers])
                waiting = [each for each, waits in zip(workers, answers, strict=True) if waits]
                if len(waiting) > 1:
                    await self._ask_by_hello(waiting, arrived, connection)
                    return
                if waiting:
                    self._give(waiting[0], arrived, connection)
                    return
        self._strangers.closed(arrived.port, arrived.origin[0])

    async def _ask_by_hello(
        self, waiting: list[WorkerProcess], arrived: DataConnection, connection: socket.socket
    ) -> None:
        for each in waiting:
            each.link.tell("ports.doubt", arrived.message(), False)
        hello = await self._hello(connection, arrived.origin)
        if hello:
            for each in waiting:
                if await _call(each, "ports.resumes", arrived.message(), hello.hex()):
                    self._give(each, arrived, connection)
                    return
            for each in waiting:
                each.link.tell("ports.doubt", arrived.message(), True)

    def _hello(self, connection: socket.socket, origin: Origin) -> Deferred[bytes]:
        """Return the ClientHello of a connection when it is there; nothing if none comes in time."""
        told: Deferred[bytes] = Deferred()
        connection.setblocking(False)
        arrival = Arrival(self._reactor, connection, origin, 0, lambda arrival: told.callback(arrival.data))
        patience = self._settings.timeouts.data_connect if self._settings is not None else 0
        within(told, self._reactor, patience, lambda *_: b"")

        def done(data: bytes) -> bytes:
            self._peeked.remove(arrival)
            if connection.fileno() >= 0:
                arrival.release()
            return data

        told.addCallback(done)
        self._peeked.add(arrival, SPARE)
        arrival.watch()
        return told

    def _give(self, worker: WorkerProcess, arrived: DataConnection, connection: socket.socket) -> None:
        with connection:
            if not worker.pass_on(arrived.message(), connection.fileno()):
                log.warn("{worker} does not accept a data connection, which is closed", worker=worker.name)


def _call(worker: WorkerProcess, name: str, *arguments: object) -> Deferred[bool]:
    """Ask a worker. One that does not answer, or does not know the question, has no session that waits."""
    return worker.link.call(name, *arguments).addErrback(lambda failure: failure.trap(Refusal) is None)


def _log_failure(failure: Failure) -> None:
    log.failure("internal error: a data connection cannot be given to a worker", failure)
