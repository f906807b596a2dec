"""Faults inside a daemon with workers that cost one client at most: locks that are held, no free descriptors."""

from __future__ import annotations

import base64
import ctypes
import fcntl
import hashlib
import itertools
import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Timer
from types import SimpleNamespace
from typing import Any, cast

import pytest
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor

from ftpsd.config.sections.groups import SharedLimits
from ftpsd.config.settings import Limits, QuotaSettings, UserLimits
from ftpsd.control.incoming.route import Route
from ftpsd.limits.ledger import lease_user
from ftpsd.limits.shared.patience import TableBusy
from ftpsd.limits.shared.state import SharedLedgerState
from ftpsd.limits.shared.table import SharedTable
from ftpsd.limits.shared.user_counts import TRANSFERS, SharedUserCounts
from ftpsd.limits.user_limits import Share
from ftpsd.processes.forks import datagrams
from ftpsd.processes.remote_sessions import HandoverFactory
from ftpsd.protocol.addresses import plain_address
from tests.admin import Admin
from tests.conftest import PLAIN
from tests.daemon import Daemon, free_range, merge
from tests.ftpclient import FtpClient, secured
from tests.hostile import plain_login
from tests.processes import is_alive, spawner, wait_for, workers
from tests.table_workers import SIZE, receive, table_workers
from tests.test_shared_homes import Process

MakeDaemon = Callable[..., Daemon]

#: The byte of the table's lock, and pidfd_getfd(2), which Python does not have.
TABLE_LOCK, PIDFD_GETFD = (1 << 40) - 2, 438


@contextmanager
def held(descriptor: int) -> Iterator[None]:
    """Hold the lock of a table, like a process that was stopped with it. The descriptor is closed."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, TABLE_LOCK, 1, 0))
    try:
        yield
    finally:
        os.close(descriptor)


def open_table(pid: int) -> int:
    """Open the table of a daemon once more."""
    path = next(each for each in Path(f"/proc/{pid}/fd").iterdir() if "ftpsd-table" in os.readlink(each))
    return os.open(path, os.O_RDWR)


def greeting(daemon: Daemon) -> str:
    """Return the first reply to a new connection, or what happens instead."""
    try:
        with FtpClient(daemon, greeting=False) as client:
            return client.reply()
    except (OSError, AssertionError) as error:
        return repr(error)


def greetings(daemon: Daemon, count: int) -> set[str]:
    """Return the codes of the first replies to several connections."""
    return {greeting(daemon)[:3] for _ in range(count)}


def set_password(daemon: Daemon, password: str) -> None:
    """Change the password of alice in the configuration."""
    digest = base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()
    daemon.users["alice"] = {"password": f"{{SHA}}{digest}"}
    daemon.write()


def logins(daemon: Daemon, count: int, password: str = "secret") -> set[str]:
    """Return the codes that alice gets for a password in several sessions at the same time."""
    with ExitStack() as opened:
        clients = [opened.enter_context(FtpClient(daemon)) for _ in range(count)]
        for each in clients:
            each.expect(331, "USER alice")
        return {each.command(f"PASS {password}")[:3] for each in clients}


# --- the parts -------------------------------------------------------------------------------------


class Messages:
    """Two ends of a channel, and what the reader makes of the messages."""

    def __init__(self, received: Callable[[object, list[socket.socket]], object]) -> None:
        self.reactor: Any = EPollReactor()
        self.ended = 0
        self.near, far = datagrams.pair()
        self.reader = datagrams.MessageReader(self.reactor, far, received, self._end)

    def _end(self) -> None:
        self.ended += 1

    def until(self, condition: Callable[[], object]) -> None:
        """Run the reactor until a condition holds."""
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            self.reactor.iterate(0.01)


@pytest.mark.quick
@pytest.mark.parametrize("error", [IndexError(), OSError(), BlockingIOError(), TableBusy()])
def test_a_message_that_cannot_be_processed(error: Exception) -> None:
    """Whatever is raised for one message, its sockets are closed, and the next messages are received."""
    received: list[object] = []

    def receive(message: object, sockets: list[socket.socket]) -> None:
        received.append(message)
        if sockets:
            raise error

    channel = Messages(receive)
    peer, given = socket.socketpair()
    datagrams.send(channel.near, "first", [given.fileno()])
    datagrams.send(channel.near, "second")
    given.close()
    channel.until(lambda: len(received) == 2)
    peer.settimeout(10)
    assert peer.recv(1) == b""
    assert received == ["first", "second"] and not channel.ended
    channel.near.close()
    channel.until(lambda: channel.ended)
    peer.close()


@pytest.mark.quick
def test_a_reader_that_is_closed_by_a_message() -> None:
    """A reader that is closed while it handles a message does not report its end."""
    channel = Messages(lambda *_: channel.reader.close())
    datagrams.send(channel.near, "last")
    channel.until(lambda: channel.reader.fileno() < 0)
    channel.reactor.iterate(0)
    assert not channel.ended
    channel.near.close()


class Watcher:
    """Calls a function when a socket is readable, and counts what the reactor tells it."""

    def __init__(self, end: socket.socket, readable: Callable[[], object] = lambda: None) -> None:
        self.end = end
        self.told = 0
        self._readable = readable

    def fileno(self) -> int:
        """The number of the descriptor."""
        return self.end.fileno()

    def logPrefix(self) -> str:
        """A name for the log."""
        return "test"

    def doRead(self) -> None:
        """Something has come."""
        self.told += 1
        self._readable()

    def connectionLost(self, reason: object) -> None:
        """The connection has ended."""
        self.told += 1


@pytest.mark.quick
def test_a_connection_gets_no_events_of_another_one() -> None:
    """A connection with the number of one that was closed in the same turn does not get what was polled for that."""
    new: list[Watcher] = []

    def receive(_: object, sockets: list[socket.socket]) -> None:
        new.append(Watcher(sockets[0]))
        channel.reactor.addReader(new[0])

    channel = Messages(receive)
    old, peer_of_old = socket.socketpair()
    given, peer_of_new = socket.socketpair()
    trigger, far = socket.socketpair()
    others = [os.open(os.devnull, os.O_RDONLY)]
    while others[-1] < old.fileno():
        others.append(os.open(os.devnull, os.O_RDONLY))
    number, watcher = old.fileno(), Watcher(old)

    def close_old() -> None:
        trigger.recv(1)
        channel.reactor.removeReader(watcher)
        old.close()

    channel.reactor.addReader(watcher)
    channel.reactor.addReader(Watcher(trigger, close_old))
    channel.reactor.iterate(0)
    far.send(b"x")  # these three are polled in this order
    datagrams.send(channel.near, "connection", [given.fileno()])
    peer_of_old.send(b"x")
    channel.until(lambda: new)
    assert new[0].fileno() == number and not watcher.told, "this test has met the case"
    for _ in range(5):
        channel.reactor.iterate(0.01)
    assert not new[0].told
    for each in (given, peer_of_new, trigger, far, peer_of_old, channel.near, new[0].end):
        each.close()
    for descriptor in others:
        os.close(descriptor)


@pytest.mark.quick
def test_counts_while_the_table_is_locked() -> None:
    """Strangers get tokens of this process alone. A user is refused, and not counted."""
    table = SharedTable.create(*SIZE)
    counts = SharedLedgerState(time.monotonic, SharedTable.attach(os.dup(table.descriptor), 0, *SIZE))
    alice = UserLimits(upload_rate=1000)
    lease_user(counts.users, Limits(), "alice", UserLimits(), ()).release()  # its slot is found without the lock
    with held(os.open(f"/proc/self/fd/{table.descriptor}", os.O_RDWR)):
        assert counts.strangers_bucket("192.0.2.1", 10, 100, 0.0).refill(0.0) == 100
        with pytest.raises(TableBusy):
            lease_user(counts.users, Limits(), "alice", alice, ())
    assert not counts.users.sessions


@pytest.mark.quick
def test_groups_change_while_the_table_is_locked(tmp_path: Path) -> None:
    """A configuration that must wait for a lock removes homes from a group all the same, and a group that has gone."""
    homes = [tmp_path / name for name in ("alice", "bob", "carol")]
    for each in homes:
        each.mkdir()
        (each / "file").write_bytes(b"x" * 100)
    table = SharedTable.create(*SIZE)
    process = Process(table, homes, QuotaSettings())
    for number in range(3):
        process.open(number, bytes=1000)
    staff = process.counts.group("staff")
    assert staff.amount.bytes == 300
    names = [frozenset([str(each)]) for each in homes]
    every = frozenset(map(str, homes))
    with held(os.open(f"/proc/self/fd/{table.descriptor}", os.O_RDWR)), pytest.raises(TableBusy):
        process.quotas.keep(every, every, {"sales": names[1], "staff": names[0]})
    process.quotas.keep(every, every, {"sales": names[1], "staff": names[0]})
    assert staff.amount.bytes == 100
    with held(os.open(f"/proc/self/fd/{table.descriptor}", os.O_RDWR)), pytest.raises(TableBusy):
        process.quotas.keep(every, every, {"guests": names[2]})
    process.quotas.keep(every, every, {"guests": names[2]})
    assert not staff.completed


@pytest.mark.quick
def test_many_wait_for_a_lock() -> None:
    """200 who wait cost a turn of the reactor less than 10 ms. All get what they wait for when the lock is free."""

    def hold(table: SharedTable, pipe: Connection) -> None:
        with table.slot("server", "").lock():
            pipe.send("held")
            pipe.recv()
        pipe.recv()

    with table_workers() as (table, others):
        _, pipe = others.start(0, hold)
        receive(pipe)
        reactor: Any = EPollReactor()
        table.patience.serve(reactor)
        counts = SharedUserCounts(table, time.monotonic)
        shares = [Share("server", "", SharedLimits(transfers=1000))]
        found: list[object] = []
        began = time.monotonic()
        for _ in range(200):
            waiting = Deferred.fromCoroutine(counts.when_free(partial(counts.add_transfer, shares)))
            waiting.addBoth(found.append)
        turns = [time.monotonic() - began]
        while time.monotonic() < began + 2:
            before = time.monotonic()
            reactor.iterate(0.001)
            turns.append(time.monotonic() - before)
        assert not found
        assert sorted(turns)[len(turns) * 3 // 4] < 0.01  # the machine may be busy at times
        pipe.send("release")
        deadline = time.monotonic() + 10
        while len(found) < 200 and time.monotonic() < deadline:
            reactor.iterate(0.001)
        assert found == [None] * 200
        assert table.total("server", "", TRANSFERS) == 200


@pytest.mark.quick
def test_strangers_when_the_table_is_free_again() -> None:
    """The next command finds the tokens of all processes. What was taken before is taken from these."""
    table = SharedTable.create(*SIZE)
    both = [
        SharedLedgerState(time.monotonic, SharedTable.attach(os.dup(table.descriptor), index, *SIZE))
        for index in range(2)
    ]
    with held(os.open(f"/proc/self/fd/{table.descriptor}", os.O_RDWR)):
        buckets = [each.strangers_bucket("192.0.2.1", 10, 100, 1000.0) for each in both]
        for each in buckets:
            assert each.refill(1000.0) == 100
            each.take(50)
    left = [each.refill(1000.0) for each in buckets]
    assert sum(left) <= 5  # what the first one has taken in advance


# --- the daemon ------------------------------------------------------------------------------------


def test_a_table_that_is_locked(make_daemon: MakeDaemon) -> None:
    """Clients are greeted all the same, also those that come when a worker waits for the lock; and no count is lost."""
    daemon = make_daemon({"workers": 2, "limits": {"sessions": 3}})
    with held(open_table(daemon.pid)), FtpClient(daemon, greeting=False) as first:
        time.sleep(1)
        assert first.reply().startswith("220")
        assert greetings(daemon, 2) == {"220"}
    wait_for(lambda: greetings(daemon, 4) == {"220"})
    assert "internal error" not in daemon.log


def test_sessions_while_the_table_is_locked(make_daemon: MakeDaemon) -> None:
    """Clients of new networks delay nobody: no session of their worker waits for the lock."""
    daemon = make_daemon({"workers": 2}, start=True)
    with ExitStack() as opened:
        sessions = [opened.enter_context(FtpClient(daemon)) for _ in range(4)]  # some of each worker
        with held(open_table(daemon.pid)):
            for number in range(20):
                other = socket.create_connection(("127.0.0.1", daemon.port), 10, (f"127.0.7.{number + 1}", 0))
                opened.callback(other.close)
            began = time.monotonic()
            for each in sessions:
                each.expect(211, "FEAT")
            took = time.monotonic() - began
    assert took < 2  # each of 20 would have waited for half a second


def test_a_login_while_the_table_is_locked(make_daemon: MakeDaemon) -> None:
    """A login waits until the lock is free, and is not refused."""
    daemon = make_daemon(merge(PLAIN, {"workers": 2}))
    with FtpClient(daemon) as client:
        client.expect(331, "USER alice")
        with held(open_table(daemon.pid)):
            client.send("PASS secret")
            time.sleep(2)
        assert client.reply().startswith("230 ")
        with held(open_table(daemon.pid)):
            client.expect(200, "NOOP")


def test_a_worker_that_starts_while_the_table_is_locked(make_daemon: MakeDaemon) -> None:
    """A worker that starts waits until the lock is free, and is ready then."""
    daemon = make_daemon({"workers": 2})
    killed, other = workers(daemon)
    with held(open_table(daemon.pid)):
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: len(set(workers(daemon)) - {killed, other}) == 1)
        (started,) = set(workers(daemon)) - {killed, other}
        time.sleep(2)
    wait_for(lambda: greetings(daemon, 6) == {"220"})
    os.kill(other, signal.SIGKILL)
    wait_for(lambda: not is_alive(other))
    wait_for(lambda: greetings(daemon, 3) == {"220"})
    assert is_alive(started)
    assert "internal error" not in daemon.log


def test_a_reload_while_the_table_is_locked(make_daemon: MakeDaemon) -> None:
    """All workers use the new configuration when the lock is free."""
    daemon = make_daemon(merge(PLAIN, {"workers": 2}))
    with held(open_table(daemon.pid)):
        daemon.groups = {"staff": {"shared": {"quota": {"bytes": "1M"}}}}
        daemon.users["alice"]["groups"] = ["staff"]
        daemon.write()
        os.kill(daemon.pid, signal.SIGHUP)
        time.sleep(2)
    daemon.wait_for_log("(?<!not )reloaded: ")
    with ExitStack() as opened:
        for _ in range(4):
            client = opened.enter_context(plain_login(daemon))
            assert "0 of 1048576 of the group staff" in client.command("SITE QUOTA")
    assert "internal error" not in daemon.log


@contextmanager
def reloading_with_locked_table(daemon: Daemon) -> Iterator[None]:
    """Begin a reload of another password. All processes have loaded it, and the supervisor waits for the table."""
    with held(open_table(daemon.pid)):
        daemon.groups = {"staff": {"shared": {"quota": {"bytes": "1M"}}}}
        set_password(daemon, "another")
        os.kill(daemon.pid, signal.SIGHUP)
        time.sleep(3)
        yield


def test_a_reload_while_a_worker_is_stopped(make_daemon: MakeDaemon) -> None:
    """A reload ends only when nobody can log in with the old password any more."""
    daemon = make_daemon(merge(PLAIN, {"workers": 2}), start=True)
    stopped = workers(daemon)[0]
    with reloading_with_locked_table(daemon):
        os.kill(stopped, signal.SIGSTOP)
    time.sleep(7)
    assert "reloaded: " not in daemon.log
    os.kill(stopped, signal.SIGCONT)
    daemon.wait_for_log("(?<!not )reloaded: ")
    assert logins(daemon, 4) == {"530"}


def test_a_worker_that_cannot_load_the_new_configuration(make_daemon: MakeDaemon) -> None:
    """The worker is replaced by one with the new configuration, and nobody can log in with the old one any more."""
    daemon = make_daemon(merge(PLAIN, {"workers": 2}), start=True)
    killed = workers(daemon)[0]
    with reloading_with_locked_table(daemon):
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: len(set(workers(daemon)) - {killed}) == 2)
        daemon.config.write_text("nonsense: true")
    daemon.wait_for_log("(?<!not )reloaded: ")
    assert logins(daemon, 4) == {"530"}
    assert "this worker cannot use the new configuration: it could not be loaded" in daemon.log
    wait_for(lambda: len(set(workers(daemon)) - {killed}) == 2 and greetings(daemon, 4) == {"220"})
    assert "internal error" not in daemon.log


def test_a_reload_that_fails_since_the_table_is_locked(make_daemon: MakeDaemon) -> None:
    """The old configuration remains in use, and no new listener is left."""
    daemon = make_daemon(merge(PLAIN, {"workers": 2}), start=True)
    port, _ = free_range()
    listen = daemon.settings["listen"]
    with held(open_table(daemon.pid)):
        daemon.groups = {"staff": {"shared": {"quota": {"bytes": "1M"}}}}
        daemon.settings["listen"] = [*listen, {**listen[0], "port": port}]
        set_password(daemon, "another")
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for_log("not reloaded: a process that was stopped has a lock")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 10).close()
    assert logins(daemon, 4) == {"230"} and logins(daemon, 4, "another") == {"530"}
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.wait_for_log("(?<!not )reloaded: ")
    assert logins(daemon, 4, "another") == {"230"}
    socket.create_connection(("127.0.0.1", port), 10).close()


def test_usage_while_the_table_is_locked(make_daemon: MakeDaemon) -> None:
    """Administration shows a user without what the home holds."""
    users: dict[str, Any] = {"alice": {"quota": {"bytes": "1M"}}}
    daemon = make_daemon({"workers": 2, "admin": {"socket": "socket"}}, users, start=True)
    client = Admin(daemon.directory / "socket")
    with held(open_table(daemon.pid)):
        assert client.get("users/alice")["usage"] is None
    assert "Traceback" not in daemon.log


@pytest.mark.quick
def test_a_table_that_is_locked_at_the_start() -> None:
    """A process that starts waits for the lock; one that serves lets its reactor wait for milliseconds."""
    table = SharedTable.create(*SIZE)
    table.patience.start()
    descriptor = os.open(f"/proc/self/fd/{table.descriptor}", os.O_RDWR)
    locked = held(descriptor)
    locked.__enter__()
    Timer(1.5, lambda: locked.__exit__(None, None, None)).start()
    table.slot("user", "alice")
    clock = task.Clock()
    table.patience.serve(clock)
    with held(os.open(f"/proc/self/fd/{table.descriptor}", os.O_RDWR)):
        began = time.monotonic()
        with pytest.raises(TableBusy):
            table.slot("user", "bob")
        assert time.monotonic() - began < 0.3
        found = Deferred.fromCoroutine(table.patience.retry(lambda: table.slot("user", "bob")))
        clock.pump([0.1] * 20)
        assert not found.called
    clock.advance(0.1)
    assert found.called


@pytest.mark.parametrize("free", [0, 1])
def test_no_descriptor_is_free_in_the_workers(make_daemon: MakeDaemon, free: int) -> None:
    """Clients are turned away at once, with 421 if there is one for them. Later ones are served, and none is counted."""
    daemon = make_daemon({"workers": 2, "limits": {"sessions": 3}})
    assert greeting(daemon).startswith("220")
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in workers(daemon)}
    before = workers(daemon)
    time.sleep(0.5)  # that session has ended
    for pid, (_, hard) in limits.items():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (_first_free(pid) + free, hard))
    for _ in range(6):
        reply = greeting(daemon)
        assert reply.startswith("421") if free else not reply.startswith("220"), reply
        assert "timed out" not in reply
        time.sleep(0.1)
    for pid, both in limits.items():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, both)
    wait_for(lambda: greetings(daemon, 4) == {"220"})
    assert workers(daemon) == before
    assert "internal error" not in daemon.log


def _first_free(pid: int) -> int:
    used = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(10_000) if number not in used)


def test_a_worker_that_gets_no_connections(make_daemon: MakeDaemon) -> None:
    """A worker whose channel for connections fails keeps its sessions, and is replaced for new ones."""
    daemon = make_daemon({"workers": 2})
    before = workers(daemon)
    with secured(daemon) as client, secured(daemon) as other:
        for pid in before:
            _shut_channel(pid)
        wait_for(lambda: len(workers(daemon)) == 4)
        wait_for(lambda: greeting(daemon).startswith("220"))
        for each in (client, other):
            each.expect(200, "NOOP")
            each.expect(221, "QUIT")
    wait_for(lambda: not any(map(is_alive, before)))
    assert len(workers(daemon)) == 2
    assert "lost" not in daemon.log


@pytest.mark.parametrize("missing", [1, 0])
def test_a_worker_that_cannot_be_forked(make_daemon: MakeDaemon, missing: int) -> None:
    """The others serve, the log says why, and the worker starts as soon as it can.

    The spawner has no descriptor for all sockets of the worker, or none for the process.
    """
    daemon = make_daemon({"workers": 2})
    pid, (killed, _) = spawner(daemon), workers(daemon)
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
    free = [number for number in range(100) if number not in used or _pid_of(pid, number) == killed]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[2 - missing], hard))
    os.kill(killed, signal.SIGKILL)
    daemon.wait_for_log("a worker cannot be started: Too many open files")
    assert greetings(daemon, 3) == {"220"}
    assert len(workers(daemon)) == 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(lambda: len(workers(daemon)) == 2)
    assert greetings(daemon, 3) == {"220"}


def _pid_of(pid: int, number: int) -> int:
    """Return the process to which a descriptor of another one refers; 0 if it is no descriptor of a process."""
    lines = Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("Pid:")), 0)


def test_a_supervisor_without_descriptors(make_daemon: MakeDaemon) -> None:
    """Without a free descriptor the supervisor starts no worker; the others serve, and it starts one when it can."""
    daemon = make_daemon({"workers": 2})
    killed, _ = workers(daemon)
    soft, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (_first_free(daemon.pid), hard))
    os.kill(killed, signal.SIGKILL)
    daemon.wait_for_log("no worker can be started: Too many open files|a worker cannot be started: Too many open files")
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(lambda: len(workers(daemon)) == 2)
    wait_for(lambda: greetings(daemon, 4) == {"220"})


def _shut_channel(pid: int) -> None:
    """Shut down the channel for connections of a worker: its only socket that keeps the boundaries of messages."""
    process = os.pidfd_open(pid)
    for each in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(each).startswith("socket:"):
            descriptor = ctypes.CDLL(None).syscall(PIDFD_GETFD, process, int(each.name), 0)
            with socket.socket(fileno=descriptor) as found:
                if found.type == socket.SOCK_SEQPACKET:
                    found.shutdown(socket.SHUT_RDWR)
    os.close(process)


@pytest.mark.quick
def test_a_connection_that_cannot_be_admitted() -> None:
    """An internal error costs one client its connection, and the listener nothing."""
    broken = SimpleNamespace(admit=lambda client: 1 // 0)
    services, settings = SimpleNamespace(numbers=itertools.count(1)), SimpleNamespace(tls="explicit")
    factory = HandoverFactory(*cast(list[Any], [services, SimpleNamespace(ledger=broken), settings, None, None]))
    client, accepted = socket.socketpair()
    with client:
        factory.admit(accepted.detach(), Route(plain_address("127.0.0.1")))
        client.settimeout(5)
        assert client.recv(1) == b""
