"""A busy machine, or a process that was stopped for a while, is taken for no fault of a disk or of a client."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from ftpsd.config import disk_watch
from ftpsd.config.disk_watch import DiskWatch, watched
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.yaml import Document
from ftpsd.data.deadlines import Deadlines
from ftpsd.data.transfer import AnyTransfer
from ftpsd.processes.supervision.heartbeat import Heartbeat
from ftpsd.processes.supervision.worker_process import WorkerProcess
from ftpsd.protocol.replies import Refusal
from ftpsd.system.link import Link
from ftpsd.system.presence import PatientClock, Presence, time_left
from ftpsd.system.reactor import Reactor
from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon, merge
from tests.ftpclient import FtpClient, read_all
from tests.hostile import BYTES, ends, open_transfer, plain_login
from tests.processes import family, is_alive, wait_for

#: A thread that has ended for Python, and ends for the kernel half a second later. Then the process is forked.
_FORK_DURING_END = """
import ctypes, os, threading
from ftpsd.processes.forks.forking import fork_alone
libc, key = ctypes.CDLL(None), ctypes.c_uint()
libc.pthread_key_create(ctypes.byref(key), libc.usleep)
thread = threading.Thread(target=lambda: libc.pthread_setspecific(key, ctypes.c_void_p(500_000)))
thread.start()
thread.join()
before = len(os.listdir("/proc/self/task"))
pid = fork_alone()
if not pid:
    os._exit(0)
os.waitpid(pid, 0)
print(before, len(os.listdir("/proc/self/task")))
"""

#: A load with one disk call, which takes a second.
_LOAD = """
import time
from pathlib import Path
from ftpsd.config import disk_watch
from ftpsd.config.yaml import Document
from ftpsd.data.deadlines import Deadlines
from ftpsd.data.transfer import AnyTransfer
disk_watch.DEADLINE = 2
def load(watch):
    watch.begin(Document(Path("file")), (), "home")
    print("begun", flush=True)
    time.sleep(1)
    watch.end()
    return "loaded"
print(disk_watch.watched(load))
"""


def _python(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def test_no_process_is_forked_while_a_thread_ends() -> None:
    """A thread that ends may hold a lock of OpenSSL, which the forked process would wait for forever."""
    with _python(_FORK_DURING_END) as process:
        before, after = process.communicate(timeout=PATIENCE)[0].split()
    if sys.version_info < (3, 13):  # later releases wait for the kernel
        assert before == "2"
    assert after == "1"


def test_a_disk_call_of_a_process_that_was_stopped() -> None:
    """A load that was stopped for longer than its disk calls may take is not refused."""
    with _python(_LOAD) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(4)
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout.readline() == "loaded\n"


@pytest.mark.quick
def test_a_disk_call_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What uses the processor does not wait for a disk: the key of a certificate takes its time on a busy machine."""
    monkeypatch.setattr(disk_watch, "INTERVAL", 0.05)
    monkeypatch.setattr(disk_watch, "DEADLINE", 0.5)

    def load(wait: bool) -> str:
        def run(watch: DiskWatch) -> str:
            watch.begin(Document(Path("file")), (), "home")
            end = time.monotonic() + 2
            while time.monotonic() < end:
                time.sleep(2 if wait else 0)
            watch.end()
            return "loaded"

        return watched(run)

    assert load(wait=False) == "loaded"
    with pytest.raises(InvalidConfiguration, match="the disk of home does not respond"):
        load(wait=True)


# --- the parts that count time ----------------------------------------------------------------------


@pytest.mark.quick
def test_time_in_which_the_process_did_not_run() -> None:
    """Deadlines do not count it, whether it was long, or each turn of a busy machine is late."""
    clock = task.Clock()
    presence = Presence(clock)
    presence.start()
    calls: list[float] = []
    for seconds in (4.5, 12):
        PatientClock(clock).callLater(seconds, lambda: calls.append(clock.seconds()))
    clock.pump([0.5] * 6)
    assert time_left(clock, 0, 10) == 7
    clock.advance(7)  # at once, as after SIGSTOP: from 3 to 10
    assert time_left(clock, 0, 5) == 1
    clock.pump([0.5] * 2)
    assert calls == [10.5]
    clock.pump([1.5] * 18)  # each look is half a second late
    assert 20 < calls[1] < 24
    presence.stop()


class Moving:
    """What deadlines ask of a transfer."""

    is_open, first_wait = True, 0.0
    waits_for_storage = waits_for_lock = False

    def __init__(self) -> None:
        self.progress = 0
        self.ended = list[Refusal]()
        self.abort = self.ended.append


@pytest.mark.quick
@pytest.mark.parametrize("stalls_at", [0.5, 19.5, 20.5, 47.0])
def test_a_transfer_that_stalls_ends_in_time(stalls_at: float) -> None:
    """It has the seconds that are configured, whatever came before, and a quarter of them more at most."""
    clock, transfer = task.Clock(), Moving()
    deadlines = Deadlines(cast(Reactor, clock), cast(AnyTransfer, transfer), 20, 20)
    while not transfer.ended:
        clock.advance(0.5)
        transfer.progress += clock.seconds() <= stalls_at
        assert clock.seconds() < 100
    deadlines.stop()
    assert 20 <= clock.seconds() - stalls_at <= 25
    assert transfer.ended[0].reply.text == "Transfer aborted: no data for 20 seconds."


@pytest.mark.quick
@pytest.mark.parametrize(("starved", "delay"), [(True, 0), (True, 2.5), (True, 9), (False, 0), (False, 2.5)])
def test_a_worker_that_gets_no_processor(starved: bool, delay: float) -> None:
    """A silent worker that gets no processor is spared for a minute; any other is killed after ten seconds.

    On a busy machine, the spawner says only after seconds which of these a worker is.
    """
    clock = task.Clock()

    def waited(_: int) -> Deferred[float | None]:
        seconds: float | None = clock.seconds() * (0.9 if starved else 0.1)
        return task.deferLater(cast(IReactorTime, clock), delay, lambda: seconds)

    with silent_worker(clock, waited) as pid:
        clock.pump([0.5] * 80)
        wait_for(lambda: is_alive(pid) == starved)
        clock.pump([0.5] * 240)
        wait_for(lambda: not is_alive(pid))


@pytest.mark.quick
def test_a_worker_of_which_nobody_knows() -> None:
    """A silent worker is also spared, but not for ever, while the spawner does not answer."""
    clock = task.Clock()
    with silent_worker(clock, lambda _: Deferred()) as pid:
        clock.pump([0.5] * 160)
        time.sleep(0.2)
        assert is_alive(pid)
        clock.pump([0.5] * 240)
        wait_for(lambda: not is_alive(pid))


@contextmanager
def silent_worker(clock: task.Clock, waited: Callable[[int], Deferred[float | None]]) -> Iterator[int]:
    """Let a heartbeat watch a worker that answers nothing. `waited` says how long it has waited for a processor."""
    ours, theirs = socket.socketpair()
    with theirs, open_process() as pid:
        worker = WorkerProcess(0, Link(cast(Reactor, clock)), ours, 0.0)
        worker.forked(pid)
        worker.state = "serving"
        heartbeat = Heartbeat(cast(Reactor, clock), {0: worker}, waited)
        heartbeat.start()
        yield pid
        heartbeat.stop()
        worker.ended()


@contextmanager
def open_process() -> Iterator[int]:
    """Start a process that does nothing, and end it."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


# --- a daemon that was stopped ----------------------------------------------------------------------


@contextmanager
def stopped(daemon: Daemon) -> Iterator[None]:
    """Stop all processes of a daemon for longer than each of its timeouts."""
    pids = family(daemon) if daemon.settings.get("workers", 1) != 1 else [daemon.pid]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(1)
        yield
        time.sleep(5)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture(params=[1, 2])
def daemon(request: pytest.FixtureRequest, make_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon of one process, and one with workers, whose clients may be silent for three seconds."""
    timeouts = dict.fromkeys(("login", "idle", "data_connect", "stalled"), 3)
    return make_daemon(merge(PLAIN, {"workers": request.param, "timeouts": timeouts}))


def test_a_client_is_not_idle_while_the_daemon_is_stopped(daemon: Daemon) -> None:
    """A command that arrives while the daemon does not run is answered, before the login and after it."""
    with FtpClient(daemon) as stranger, plain_login(daemon) as client:
        with stopped(daemon):
            stranger.send("FEAT")
            client.send("NOOP")
        assert stranger.reply().startswith("211")
        assert client.reply().startswith("200 ")
        assert ends(client).startswith("421 ")


def test_a_transfer_does_not_stall_while_the_daemon_is_stopped(daemon: Daemon) -> None:
    """An upload whose bytes arrive while the daemon does not run is complete."""
    with plain_login(daemon) as client:
        with open_transfer(client, "STOR file") as data:
            for start in (0, 500):
                data.sendall(BYTES[start : start + 500])
                time.sleep(2)
            with stopped(daemon):
                data.sendall(BYTES[1000:2000])
        assert client.reply().startswith("226 ")
    assert (daemon.home() / "file").read_bytes() == BYTES[:2000]


def test_a_data_connection_that_comes_while_the_daemon_is_stopped(daemon: Daemon) -> None:
    """A client that connects to the passive port while the daemon does not run gets its file."""
    (daemon.home() / "file").write_bytes(BYTES)
    with plain_login(daemon) as client:
        port = client.passive_port()
        client.send("RETR file")
        time.sleep(0.5)
        with stopped(daemon):
            data = client.connect_data(port)
        with data:
            assert client.reply().startswith("150 ")
            assert read_all(data) == BYTES
        assert client.reply().startswith("226 ")
