"""Sessions without sockets, threads or time: the real protocol stack on a StringTransport and a Clock.

Lines, commands, replies, login, limits and timeouts are those of the daemon. Replaced are the reactor by a clock that
the test advances, worker threads by direct calls, the data connection by bytes that the test gives and gets (`Data`),
and, unless a test needs a directory, the files by those of `tests/memory_files.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.cred.portal import Portal
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, execute
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from ftpsd.accounts.one_time.totp import UsedCodes
from ftpsd.accounts.password_checker import PasswordChecker
from ftpsd.accounts.realm import Realm
from ftpsd.config.sections.tls import RequireSettings, TlsSettings
from ftpsd.config.settings import ListenSettings, Settings, UserSettings
from ftpsd.control.incoming.factory import FtpsFactory
from ftpsd.control.scheduler import Scheduler
from ftpsd.control.services import ControlServices
from ftpsd.data.endpoints import FileSource, Steps
from ftpsd.data.steps import checksum, download, upload
from ftpsd.events.hub import Hub
from ftpsd.limits.ledger import Ledger, LedgerState, LocalLedger
from ftpsd.limits.local_home_counts import LocalHomeCounts
from ftpsd.limits.session_registry import LocalSessionRegistry
from ftpsd.protocol.addresses import Endpoint, plain_address
from ftpsd.protocol.replies import Reply
from ftpsd.snapshot import Newest, Snapshot, policy_of
from ftpsd.storage.backend import Backend
from ftpsd.storage.folders.tree import FolderTrees
from ftpsd.storage.local.files import LocalBackend
from ftpsd.storage.local.measure import DirectoryMeter
from ftpsd.storage.quota import Quotas
from ftpsd.system.state import Store
from tests.memory_files import MemoryBackend
from tests.memory_store import MemoryUserStore

Opening = Callable[[], Any]

#: The POSIX time at which the clock of a test stands at first.
START = 1_700_000_000.0


class DirectCalls:
    """Worker threads that are none: each call is made at once, in the thread of the test."""

    patience = 120.0

    def queue(self, *_: str) -> DirectCalls:
        """Return the queue of whoever asks."""
        return self

    def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Deferred[Any]:
        """Return what the function returns or raises, as a Deferred that has fired."""
        return execute(function, *arguments, **named)

    def run(self, steps: Steps, patience: float = 0.0) -> Deferred[Any]:
        """Return what a job in steps returns or raises, the same way."""
        return execute(run, steps)

    def submit(self, job: Callable[[], object]) -> None:
        """Run a job."""
        job()


def outcome(found: list[Any]) -> Any:
    """Return or raise the only result that a Deferred has put into a list."""
    (result,) = found
    if hasattr(result, "raiseException"):
        result.raiseException()
    return result


def run(steps: Steps) -> Any:
    """Take all steps of a transfer or another job; return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


class Bytes:
    """A data connection in memory, as a transfer uses it: what is received, and then what was sent."""

    opened = True

    def __init__(self, received: bytes = b"") -> None:
        self._received = memoryview(received)
        self.sent = bytearray()
        self.moved = 0

    def open(self) -> Steps:
        """Nothing has to be opened."""
        yield from ()

    finish_sending = finish_receiving = open

    def send(self, data: bytes | memoryview) -> Steps:
        """Take all of it."""
        yield None
        self.sent += data
        self.moved += len(data)

    def send_file(self, source: FileSource) -> Steps:
        """Take the file."""
        for piece in source:
            yield from self.send(piece)

    def allowance(self) -> Steps:
        """Return how many bytes may be copied in a step."""
        yield None
        return 1024

    def charge(self, count: int) -> None:
        """No rate limits it."""

    def receive(self, buffer: memoryview) -> Steps:
        """Give what is left, as far as the buffer goes."""
        yield None
        count = min(len(buffer), len(self._received))
        buffer[:count], self._received = self._received[:count], self._received[count:]
        self.moved += count
        return count


class Data:
    """A data connection: what the test puts into `incoming` is uploaded, `outgoing` is what was downloaded."""

    def __init__(self) -> None:
        self.incoming: deque[bytes] = deque()
        self.outgoing: list[bytearray] = []
        self.rate_limits: Callable[[Any], Any] = lambda _: ()
        self.prepared = False
        self.moved = 0

    def passive(self, announce: bool) -> Endpoint:
        """Prepare a connection."""
        self.prepared = True
        return Endpoint(plain_address("127.0.0.1"), 50000)

    def is_own(self, target: Endpoint) -> bool:
        """Return whether the daemon itself listens there."""
        return False

    def active(self, target: Endpoint) -> None:
        """Prepare a connection."""
        self.prepared = True

    async def send(
        self, opening: Opening, opened: Callable[[Any], None], text: bool = False, walk: bool = False
    ) -> int:
        """Download what `opening` opens; return the number of bytes."""
        self.outgoing.append(self._move(download, lambda: Bytes(), opening, opened, text).sent)
        return self.moved

    async def receive(self, opening: Opening, opened: Callable[[Any], None], text: bool = False) -> int:
        """Upload the next of `incoming` into what `opening` opens; return the number of bytes."""
        self._move(upload, lambda: Bytes(self.incoming.popleft()), opening, opened, text)
        return self.moved

    def _move(
        self,
        move: Callable[..., Steps],
        connect: Callable[[], Bytes],
        opening: Opening,
        opened: Callable[[Any], None],
        text: bool,
    ) -> Bytes:
        end = opening()
        self.prepared = False
        try:
            opened(end)
            connection = connect()
            self.moved = int(run(move(connection, text, end)))
        finally:
            end.close()
        return connection

    def progress(self) -> None:
        """Each transfer is over when its command returns."""

    async def digest(self, opening: Opening, digest: Any) -> Any:
        """Read what `opening` opens into a digest; return where that starts and ends."""
        source = opening()
        try:
            return run(checksum(source, digest))
        finally:
            source.close()

    def abort(self, reply: Reply) -> None:
        """Nothing runs."""

    def reset(self) -> None:
        """Forget what was prepared."""
        self.prepared = False

    def settle(self) -> None:
        """The command is over."""

    def input_ended(self, reply: Reply, expected: bool) -> None:
        """The client says no more."""

    def close(self, reply: Reply) -> None:
        """The session is over."""


class Transport(StringTransport):
    """A StringTransport with what a TCP connection of Twisted has beside it."""

    dataBuffer = b""
    _tempDataBuffer = ()
    protocol: Any

    def getHandle(self) -> Transport:
        """The socket."""
        return self

    def setsockopt(self, *_: object) -> None:
        """An option of the socket."""

    def getsockopt(self, *_: object) -> int:
        """No error of the socket."""
        return 0

    def setTcpNoDelay(self, enabled: bool) -> None:
        """An option of the socket."""

    def writeSomeData(self, data: bytes) -> int:
        """Take all of it."""
        self.write(data)
        return len(data)

    def abortConnection(self) -> None:
        """End the connection."""
        self.loseConnection()


def local_ledger(clock: Clock, settings: Settings) -> Ledger:
    """Make the ledger of a daemon that is one process."""
    return LocalLedger(LedgerState(clock.seconds), settings.limits, settings.bans)


class Server:
    """A daemon's factory, its clock and its users, all with the password "secret".

    Their homes are directories in `homes`, or in memory without it.
    """

    def __init__(
        self,
        homes: Path | None = None,
        settings: dict[str, Any] | None = None,
        users: dict[str, UserSettings] | None = None,
        make_ledger: Callable[[Clock, Settings], Ledger] = local_ledger,
    ) -> None:
        self.clock = Clock()
        plain = TlsSettings(Path("none"), require=RequireSettings(login=False, data=False))
        self.settings = attrs.evolve(Settings(listen=(ListenSettings("127.0.0.1", 21),), tls=plain), **(settings or {}))
        self.homes = homes
        users = users or {"alice": UserSettings(), "bob": UserSettings()}
        self.users = MemoryUserStore({name: self._with_home(name, user) for name, user in users.items()})
        workers: Any = DirectCalls()
        reactor: Any = self.clock
        ledger = make_ledger(self.clock, self.settings)
        backend: Backend = MemoryBackend()
        if homes is not None:
            backend = LocalBackend(
                workers, Quotas(self.clock, workers, DirectoryMeter(), LocalHomeCounts()), fsync=False
            )
        trees = FolderTrees(backend, lambda folder: backend, workers, self.clock, self.now())
        realm: Any = Realm(self.now, trees, ledger)
        checker: Any = PasswordChecker(self.users, UsedCodes(Store(reactor), self.now), self.now)
        contexts: Any = None
        snapshot = Snapshot(
            self.settings,
            contexts=contexts,
            data=self,
            policy=policy_of(self.settings),
            ledger=ledger,
            now=self.now,
            newest=lambda: newest,
        )
        newest = Newest(snapshot, Portal(realm, [checker]))
        self.data: list[Data] = []
        self.hub = Hub(self.clock)
        self.sessions = LocalSessionRegistry(self.clock)
        services: Any = ControlServices(self.clock, Scheduler(self.clock), self.hub, self.sessions)
        self._factory = FtpsFactory(services, snapshot, ListenSettings("127.0.0.1", 21))

    def _with_home(self, name: str, user: UserSettings) -> UserSettings:
        if self.homes is not None:
            (self.homes / name).mkdir(parents=True, exist_ok=True)
            user = attrs.evolve(user, home=str(self.homes / name))
        return attrs.evolve(user, password="secret")

    def now(self) -> float:
        """The time of day."""
        return START + self.clock.seconds()

    def channel(self, *_: object) -> Data:
        """The data connections of a new session."""
        self.data.append(Data())
        return self.data[-1]

    def connect(self, address: str = "127.0.0.1") -> Client:
        """A client that has connected."""
        return Client(self, address)


class Client:
    """One control connection, as the client sees it."""

    def __init__(self, server: Server, address: str) -> None:
        peer = IPv4Address("TCP", address, 40000)
        self._clock = server.clock
        self.transport = Transport(hostAddress=IPv4Address("TCP", "127.0.0.1", 21), peerAddress=peer)
        before = len(server.data)
        protocol = server._factory.buildProtocol(peer)
        assert protocol is not None
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)
        self.data = server.data[-1] if len(server.data) > before else Data()

    def send(self, data: bytes) -> None:
        """Send bytes, and let the reactor work on them."""
        if not self.transport.disconnecting:
            self.transport.protocol.dataReceived(data)
            self._clock.advance(0)

    def heard(self) -> str:
        """Return what the server has said since the last time."""
        said = self.transport.value().decode("utf-8", "backslashreplace")
        self.transport.clear()
        return said

    def say(self, line: str) -> str:
        """Send a line; return the replies."""
        self.send(line.encode() + b"\r\n")
        return self.heard()

    def log_in(self, user: str = "alice") -> Client:
        """Log in; return the client."""
        self.heard()
        self.say(f"USER {user}")
        assert self.say("PASS secret").startswith("230")
        return self

    def leave(self) -> None:
        """Cut the connection."""
        self.transport.protocol.connectionLost(Failure(ConnectionDone()))
