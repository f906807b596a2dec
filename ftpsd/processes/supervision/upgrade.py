"""An upgrade that cuts no transfer: the supervisor leaves its workers to the next process of the service.

While systemd restarts the service, it keeps what the next process needs (`system/systemd/descriptor_store`): the
listeners, the table in which all processes count, and for each worker: a new connection, a descriptor of the process,
to end it if it hangs, and this end of the socket on which it gets connections, to leave it once more. The workers end
with their last transfer.
Whoever restarts the service creates the file `upgrade` in RUNTIME_DIRECTORY before: else the daemon stops as usual.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import cast

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ftpsd.limits.ledger import SessionLease
from ftpsd.processes.forks import datagrams
from ftpsd.processes.supervision.launcher import Launcher
from ftpsd.processes.supervision.worker_process import CHANNEL, PROCESS, WorkerProcess
from ftpsd.protocol.addresses import Address, plain_address
from ftpsd.protocol.replies import Refusal
from ftpsd.system.link import LinkLost
from ftpsd.system.reactor import Reactor
from ftpsd.system.systemd import descriptor_store
from ftpsd.system.systemd.descriptor_store import StoreFailed
from ftpsd.system.systemd.sockets import LISTENER

log = Logger(namespace="ftpsd")

#: Seconds for which the wish for an upgrade is good.
_MAX_AGE = 600

#: Seconds for which the start waits for the workers of the last process, and the end for those that are left. They
#: answer in milliseconds.
LONGEST = 2

#: Seconds between two looks at the links to the workers that are left.
_LOOK = 0.02

#: The names of descriptors.
TABLE = "table"
_WORKER = "worker-"


def is_wanted() -> bool:
    """Return whether the process that takes the place of this one should get the workers."""
    directory = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    try:
        return bool(directory) and time.time() - os.stat(Path(directory, "upgrade")).st_mtime < _MAX_AGE
    except OSError:
        return False


def leave(workers: Iterable[WorkerProcess], listeners: Iterable[socket.socket], table: int, seconds: int) -> bool:
    """Leave everything to the next process. Return False if systemd keeps nothing: then nothing has changed.

    Running transfers get so many seconds.
    """
    links = [(worker, *socket.socketpair()) for worker in workers]
    kept = {TABLE: table}
    kept.update((f"{LISTENER}{number}", each.fileno()) for number, each in enumerate(listeners))
    kept.update((f"{_WORKER}{worker.index}", ours.fileno()) for worker, ours, _ in links)
    for worker, _, _ in links:
        kept.update((f"{name}{worker.index}", descriptor) for name, descriptor in worker.descriptors().items())
    try:
        for name, descriptor in kept.items():
            descriptor_store.keep(name, descriptor)
    except StoreFailed as error:
        log.error("running transfers cannot be handed over to the new process: {error}", error=str(error))
        remove(kept)
        return False
    for worker, ours, theirs in links:
        with ours, theirs:
            try:
                worker.leave(theirs.fileno(), seconds)
            except OSError:
                pass  # it has ended
    return True


async def wait_for_events(reactor: Reactor, workers: Mapping[int, WorkerProcess]) -> None:
    """Wait until the workers that were left have sent their events: they close their links then, or time is over."""
    end = reactor.seconds() + LONGEST
    while any(each.link.transport is not None for each in workers.values()) and reactor.seconds() < end:
        await deferLater(cast(IReactorTime, reactor), _LOOK)


def adopt(reactor: Reactor, launcher: Launcher, admit: Callable[[int, Address], SessionLease]) -> Deferred[None]:
    """Take over the workers that the last process has left; `admit` counts each of their sessions by its number.

    Return a Deferred that fires when all have reported their sessions, or after `LONGEST` seconds, so that nobody waits
    for a worker that does not answer. That one is asked again, and the heartbeat ends it if it never answers.
    """
    left = descriptor_store.passed()
    asked = []
    for name, descriptor in left.items():
        if name.startswith(_WORKER):
            index = name.removeprefix(_WORKER)
            channel, process = left.get(CHANNEL + index), left.get(PROCESS + index)
            connections = _closed() if channel is None else socket.socket(fileno=channel)
            worker = launcher.adopt(int(index), socket.socket(fileno=descriptor), connections)
            if process is not None:
                worker.adopted(process)
            asked.append(Deferred.fromCoroutine(_count(worker, admit)))
    remove(left)
    answered: Deferred[None] = Deferred()

    def end(*_: object) -> None:
        if not answered.called:
            answered.callback(None)

    limit = reactor.callLater(LONGEST, end)
    answered.addCallback(lambda _: limit.cancel() if limit.active() else None)
    DeferredList(asked).addCallback(end)
    return answered


async def _count(worker: WorkerProcess, admit: Callable[[int, Address], SessionLease]) -> None:
    """Count the sessions of a worker, as soon as it answers."""
    while True:
        try:
            _, sessions = await worker.link.call("process.adopt")
            break
        except Refusal as error:
            if not isinstance(error, LinkLost) or error.closed:
                log.error("{worker} of the old process cannot be taken over", worker=worker.name)
                return
            log.warn("{worker} of the old process does not answer yet", worker=worker.name)
    for number, client in sessions:
        address = plain_address(client)
        worker.has(number, address, admit(number, address))
    log.info(
        "{worker} was started by the old process: {count} of its sessions continue",
        worker=worker.name,
        count=len(sessions),
    )


def _closed() -> socket.socket:
    """Return a socket whose other end has gone."""
    ours, other = datagrams.pair()
    other.close()
    return ours


def decline() -> None:
    """Take over nothing that the last process has left, but its listeners: this one has no workers.

    The workers of the last process end with their transfers, or after `timeouts.drain` seconds.
    """
    left = descriptor_store.passed()
    for name, descriptor in left.items():
        if not name.startswith(LISTENER):
            os.close(descriptor)
    remove(left)


def left_table() -> int | None:
    """Return the descriptor of the table that the workers of the last process use, if they were left."""
    return descriptor_store.passed().get(TABLE)


def remove(names: Iterable[str]) -> None:
    """Let systemd drop descriptors, because this process has them or does not need them."""
    for name in names:
        try:
            descriptor_store.remove(name)
        except StoreFailed as error:
            log.error("systemd cannot be told to drop descriptors that nobody needs: {error}", error=str(error))
            return
