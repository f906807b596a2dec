"""The processes of a daemon with workers: how they start, fail, are replaced and end. No process outlives the daemon."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpsd.accounts import hashes
from tests.daemon import PATIENCE, Daemon, program, twistd
from tests.ftpclient import FtpClient, secured
from tests.hostile import open_transfer
from tests.processes import family, is_alive, pss, spawner, stop, wait_for, workers
from tests.test_sandbox import with_landlock
from tests.test_service import ENDED

MakeDaemon = Callable[..., Daemon]


@pytest.fixture
def make_workers(make_daemon: MakeDaemon) -> Iterator[MakeDaemon]:
    """Return a function that makes daemons with two workers. At the end, none of their processes is left."""
    seen: list[int] = []
    made: list[Daemon] = []

    def make(settings: dict[str, Any] | None = None, users: dict[str, Any] | None = None, **keywords: Any) -> Daemon:
        daemon = make_daemon({"workers": 2, **(settings or {})}, users, **keywords)
        made.append(daemon)
        if daemon.process is not None:
            seen.extend(family(daemon))
        return daemon

    yield make
    for daemon in made:
        if daemon.process is not None and daemon.process.poll() is None:
            seen.extend(family(daemon))
            daemon.stop()
    wait_for(lambda: not any(map(is_alive, seen)), f"{seen} are left")


def by_worker(daemon: Daemon, clients: list[FtpClient]) -> Counter[int]:
    """Return how many of these connections each worker has."""
    ours = {client.socket.getsockname()[1] for client in clients}
    found: Counter[int] = Counter()
    for pid in workers(daemon):
        found[pid] = len(ours & peer_ports(pid, daemon.port))
    return found


def peer_ports(pid: int, port: int) -> set[int]:
    """Return the ports of the clients of a process, which are connected to this port."""
    inodes = {os.readlink(each) for each in open_descriptors(pid)}
    found = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[1].rpartition(":")[2], 16) == port and f"socket:[{words[9]}]" in inodes:
            found.add(int(words[2].rpartition(":")[2], 16))
    return found


def open_descriptors(pid: int) -> Iterator[Path]:
    """Yield the open descriptors of a process."""
    for each in Path(f"/proc/{pid}/fd").iterdir():
        if each.is_symlink():
            yield each


def worker_of(daemon: Daemon, client: FtpClient) -> int:
    """Return the worker that serves a client."""
    return next(pid for pid, count in by_worker(daemon, [client]).items() if count)


def is_served(daemon: Daemon) -> bool:
    """Return whether a client can log in and upload a file."""
    with secured(daemon) as client:
        return client.upload("STOR served", b"content").startswith("226")


def greeting(daemon: Daemon) -> str:
    """Return the first reply to a new connection."""
    with FtpClient(daemon, greeting=False) as client:
        return client.reply()


def is_served_by_another(daemon: Daemon, pid: int) -> bool:
    """Return whether a new session is served by another worker than this one."""
    with secured(daemon) as client:
        return worker_of(daemon, client) != pid


# --- start and stop --------------------------------------------------------------------------------


def test_sessions_are_divided_among_workers(make_workers: MakeDaemon) -> None:
    """Each connection goes to the worker with the fewest sessions. Logins and transfers work in all of them."""
    daemon = make_workers()
    clients = [secured(daemon) for _ in range(8)]
    assert sorted(by_worker(daemon, clients).values()) == [4, 4]
    for number, client in enumerate(clients):
        assert client.upload(f"STOR {number}", b"content").startswith("226")
    for client in clients:
        assert len(client.download("MLSD").splitlines()) == 8
        client.expect(221, "QUIT")


def test_session_numbers_are_unique(make_workers: MakeDaemon) -> None:
    """The log gives each session its own number, whichever worker serves it."""
    daemon = make_workers()
    for _ in range(6):
        with secured(daemon) as client:
            client.expect(221, "QUIT")
    wait_for(lambda: daemon.log.count("QUIT: 221") == 6)
    numbers = re.findall(r"\((\d{6})\) alice .*QUIT: 221", daemon.log)
    assert len(set(numbers)) == 6


def test_auto_is_one_worker_for_each_processor(make_workers: MakeDaemon) -> None:
    """With `workers: auto` there are as many as the daemon may use processors."""
    processors = len(os.sched_getaffinity(0))
    if processors == 1:
        pytest.skip("one processor: the daemon is one process")
    assert len(workers(make_workers({"workers": "auto"}))) == min(processors, 32)


def test_implicit_tls_and_both_families(make_workers: MakeDaemon) -> None:
    """Each listener hands over its connections with its settings."""
    daemon = make_workers({"workers": 2}, address="::1")
    with FtpClient(daemon, implicit=True) as client:
        client.login()
        assert client.upload("STOR file", b"content").startswith("226")
    assert is_served(daemon)


def test_limits_hold_for_all_workers_together(make_workers: MakeDaemon) -> None:
    """`limits.sessions` counts the sessions of all workers; a place is free when a session has ended."""
    daemon = make_workers({"limits": {"sessions": 4}})
    clients = [secured(daemon) for _ in range(4)]
    with FtpClient(daemon, greeting=False) as refused:
        assert refused.reply().startswith("421 Too many sessions")
    clients[0].expect(221, "QUIT")
    wait_for(lambda: is_served(daemon))


def test_a_stop_lets_transfers_finish(make_workers: MakeDaemon) -> None:
    """SIGTERM: idle sessions get 421 now, a running transfer ends with 226, and then all processes end."""
    daemon = make_workers({"timeouts": {"drain": 30}})
    processes = family(daemon)
    clients = [secured(daemon) for _ in range(4)]
    data = open_transfer(clients[0], "STOR file")
    data.sendall(b"first, ")
    os.kill(daemon.pid, signal.SIGTERM)
    for client in clients[1:]:
        assert client.reply().startswith("421")
    with FtpClient(daemon, greeting=False) as late:
        assert late.reply().startswith("421 Server is shutting down")
    data.sendall(b"second")
    data.unwrap()  # type: ignore[attr-defined]
    data.close()
    assert clients[0].reply().startswith("226")
    assert clients[0].reply().startswith("421")
    assert daemon.process is not None
    assert daemon.process.wait(PATIENCE) in ENDED
    wait_for(lambda: not any(map(is_alive, processes)))
    assert (daemon.home() / "file").read_bytes() == b"first, second"


def test_a_second_signal_stops_at_once(make_workers: MakeDaemon) -> None:
    """A second signal ends the wait for transfers in all workers."""
    daemon = make_workers({"timeouts": {"drain": 600}})
    with secured(daemon) as client, open_transfer(client, "STOR file"):
        os.kill(daemon.pid, signal.SIGTERM)
        daemon.wait_for_log("SIGTERM")
        time.sleep(0.3)
        os.kill(daemon.pid, signal.SIGTERM)
        assert client.reply().startswith(("426", "421"))
        assert daemon.process is not None
        assert daemon.process.wait(PATIENCE) in ENDED


def test_a_worker_that_cannot_start(make_workers: MakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon says why, and ends with status 1: no listener was served."""
    daemon = make_workers(start=False)
    program = (
        "import sys; from ftpsd.processes import worker; from twisted.scripts.twistd import run\n"
        "def fail(*_): raise RuntimeError('the worker is broken')\n"
        "worker.WorkerService.startService = fail\n"
        f"sys.argv = ['twistd', '-n', '--pidfile=', 'ftpsd', '-c', {str(daemon.config)!r}]; run()"
    )
    monkeypatch.setattr(daemon, "command", lambda: [sys.executable, "-c", program])
    daemon.start()  # it waits for the first sign of a failure, too
    assert daemon.process is not None
    assert daemon.process.wait(PATIENCE) == 1
    assert "the worker is broken" in daemon.log
    assert re.search(r"worker \d \(process \d+\) has ended with exit status 1", daemon.log)
    assert "listening on" not in daemon.log


def test_an_error_of_the_daemon_at_its_start(make_workers: MakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong, the daemon does not go on without its listeners: it says why, and ends with status 1."""
    daemon = make_workers(start=False)
    program = (
        "import sys; from ftpsd.processes import supervisor; from twisted.scripts.twistd import run\n"
        "async def fail(*_): raise ValueError('nobody has foreseen this')\n"
        "supervisor.Workers.start = fail\n"
        f"sys.argv = ['twistd', '-n', '--pidfile=', 'ftpsd', '-c', {str(daemon.config)!r}]; run()"
    )
    monkeypatch.setattr(daemon, "command", lambda: [sys.executable, "-c", program])
    daemon.start()
    assert daemon.process is not None
    assert daemon.process.wait(PATIENCE) == 1
    assert "the daemon cannot start: nobody has foreseen this" in daemon.log


# --- failures --------------------------------------------------------------------------------------


def test_a_table_that_cannot_be_made(make_daemon: MakeDaemon) -> None:
    """A limit of file sizes holds for the table of all workers, too: the daemon ends with a sentence."""
    daemon = make_daemon({"workers": 2}, start=False)
    command = ["prlimit", "--fsize=1000000", *twistd("-n", "--pidfile=", "ftpsd", "-c", str(daemon.config))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr, done.stderr
    assert "the table of all workers cannot be made: file too large. If files are limited" in done.stderr


def test_a_worker_that_is_killed(make_workers: MakeDaemon) -> None:
    """Only its own sessions end, their counts are returned, the log says how many, and another worker starts."""
    daemon = make_workers({"limits": {"sessions": 4}})
    clients = [secured(daemon) for _ in range(4)]
    killed = worker_of(daemon, clients[0])
    survivors = [client for client in clients if worker_of(daemon, client) != killed]
    lost = [client for client in clients if client not in survivors]
    os.kill(killed, signal.SIGKILL)
    daemon.wait_for_log(rf"worker \d \(process {killed}\) was killed by signal 9: 2 sessions lost")
    for client in lost:
        assert client.socket.recv(1000) == b""
    for client in survivors:
        client.expect(200, "NOOP")
    wait_for(lambda: is_served_by_another(daemon, worker_of(daemon, survivors[0])))
    more = [secured(daemon) for _ in range(2)]
    assert sorted(by_worker(daemon, survivors + more).values()) == [2, 2]


def test_all_workers_are_killed(make_workers: MakeDaemon) -> None:
    """Clients get 421 while there is none; others start at once."""
    daemon = make_workers()
    for pid in workers(daemon):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: greeting(daemon).startswith("220"))
    assert is_served(daemon)


def test_a_worker_that_hangs(make_workers: MakeDaemon) -> None:
    """One that does not respond for about ten seconds is killed and replaced; others serve meanwhile."""
    daemon = make_workers()
    with secured(daemon) as client, secured(daemon) as other:
        stopped = worker_of(daemon, client)
        os.kill(stopped, signal.SIGSTOP)
        other.expect(200, "NOOP")
        daemon.wait_for_log(rf"worker \d \(process {stopped}\) does not respond, and is killed")
        wait_for(lambda: len(workers(daemon)) == 2 and not is_alive(stopped))
        other.expect(200, "NOOP")
    assert is_served(daemon)


def test_crash_loops_back_off(make_workers: MakeDaemon) -> None:
    """The first worker is replaced at once, the next after a second, then two: the machine is not busy with starts."""
    daemon = make_workers()
    seen = set(workers(daemon))
    killed = 0
    begin = time.monotonic()
    while time.monotonic() - begin < 5:
        for pid in workers(daemon):
            seen.add(pid)
            stop(pid, signal.SIGKILL)
            killed += 1
        time.sleep(0.01)
    assert len(seen) <= 12, "2 at first, and for each 2 at once, after 1 s, after 2 s, with room for slow machines"
    wait_for(lambda: len(workers(daemon)) == 2 and greeting(daemon).startswith("220"))
    assert is_served(daemon)


def test_sigterm_twice_to_a_worker_before_its_supervisor_answers(make_workers: MakeDaemon) -> None:
    """The second one ends the wait for transfers, as it does later: the client gets its replies, and no file is left."""
    daemon = make_workers({"timeouts": {"drain": 600}})
    with secured(daemon) as client, open_transfer(client, "STOR file"):
        worker = worker_of(daemon, client)
        os.kill(daemon.pid, signal.SIGSTOP)
        os.kill(worker, signal.SIGTERM)
        time.sleep(0.5)
        os.kill(worker, signal.SIGTERM)
        time.sleep(0.5)
        os.kill(daemon.pid, signal.SIGCONT)
        assert client.reply().startswith(("426", "421"))
        wait_for(lambda: not is_alive(worker))
    assert "was killed" not in daemon.log
    assert is_served(daemon)


def test_a_second_signal_before_a_worker_knows_of_the_first_one(make_workers: MakeDaemon) -> None:
    """A worker that learns of both signals at once ends its sessions with a reply, and is not killed."""
    daemon = make_workers({"timeouts": {"drain": 600}})
    with secured(daemon) as client, open_transfer(client, "STOR file"):
        worker = worker_of(daemon, client)
        os.kill(worker, signal.SIGSTOP)
        os.kill(daemon.pid, signal.SIGTERM)
        daemon.wait_for_log("SIGTERM")
        time.sleep(0.5)
        os.kill(daemon.pid, signal.SIGTERM)
        time.sleep(0.5)
        os.kill(worker, signal.SIGCONT)
        assert client.reply().startswith(("426", "421"))
    assert daemon.process is not None
    assert daemon.process.wait(PATIENCE) in ENDED


def test_sigterm_to_a_worker(make_workers: MakeDaemon) -> None:
    """The worker ends when its transfer has, and another one serves new sessions meanwhile."""
    daemon = make_workers({"timeouts": {"drain": 60}})
    with secured(daemon) as client:
        data = open_transfer(client, "STOR file")
        old = worker_of(daemon, client)
        os.kill(old, signal.SIGTERM)
        wait_for(lambda: len(workers(daemon)) == 3)
        assert is_served(daemon)
        data.sendall(b"content")
        data.unwrap()  # type: ignore[attr-defined]
        data.close()
        assert client.reply().startswith("226")
        wait_for(lambda: not is_alive(old))
    assert "lost" not in daemon.log


def test_a_supervisor_that_is_killed(make_workers: MakeDaemon) -> None:
    """Running transfers finish within `timeouts.drain`; then no process is left."""
    daemon = make_workers({"timeouts": {"drain": 30}})
    processes = family(daemon)
    with secured(daemon) as idle, secured(daemon) as client:
        data = open_transfer(client, "STOR file")
        os.kill(daemon.pid, signal.SIGKILL)
        assert idle.reply().startswith("421")
        data.sendall(b"content")
        data.unwrap()  # type: ignore[attr-defined]
        data.close()
        assert client.reply().startswith("226")
    wait_for(lambda: not any(map(is_alive, processes)))
    assert (daemon.home() / "file").read_bytes() == b"content"


def test_a_supervisor_that_is_killed_and_a_transfer_that_does_not_end(make_workers: MakeDaemon) -> None:
    """After `timeouts.drain` the workers end anyway."""
    daemon = make_workers({"timeouts": {"drain": 1}})
    processes = family(daemon)
    with secured(daemon) as client, open_transfer(client, "STOR file"):
        os.kill(daemon.pid, signal.SIGKILL)
        wait_for(lambda: not any(map(is_alive, processes)))


def test_a_spawner_that_is_killed(make_workers: MakeDaemon) -> None:
    """No worker can be replaced any more: the daemon stops gracefully with status 1, so that systemd starts it again.

    It ends with its last session, although nobody tells it that its workers have ended.
    """
    daemon = make_workers({"timeouts": {"drain": 600}})
    processes = family(daemon)
    with secured(daemon) as client:
        data = open_transfer(client, "STOR file")
        os.kill(spawner(daemon), signal.SIGKILL)
        daemon.wait_for_log("the process that starts workers has ended")
        data.sendall(b"content")
        data.unwrap()  # type: ignore[attr-defined]
        data.close()
        assert client.reply().startswith("226")
    assert daemon.process is not None
    assert daemon.process.wait(PATIENCE) == 1
    wait_for(lambda: not any(map(is_alive, processes)))


# --- reload ----------------------------------------------------------------------------------------


def test_a_reload_reaches_all_workers(make_workers: MakeDaemon) -> None:
    """New sessions of each worker get the new configuration, without a new process; so do workers that start later."""
    daemon = make_workers()
    before = workers(daemon)
    daemon.settings["banner"] = "second"
    daemon.users["carol"] = {}
    daemon.write()
    daemon.reload()
    assert workers(daemon) == before
    clients = [secured(daemon, "carol") for _ in range(4)]
    assert sorted(by_worker(daemon, clients).values()) == [2, 2]
    daemon.config.write_text("nonsense")  # not reloaded: a worker that starts now has what is in effect
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not set(workers(daemon)) & set(before) and greeting(daemon).startswith("220 second"))
    with secured(daemon, "carol") as client:
        client.expect(200, "NOOP")


def test_a_reload_with_a_fault_changes_nothing(make_workers: MakeDaemon) -> None:
    """The old configuration remains in effect in all processes."""
    daemon = make_workers()
    before = workers(daemon)
    daemon.settings["banner"] = 3
    daemon.write()
    daemon.reload()
    assert "the old configuration remains in effect" in daemon.log
    assert workers(daemon) == before
    assert is_served(daemon)


@with_landlock
def test_a_reload_with_homes_in_new_places(make_workers: MakeDaemon, tmp_path: Path) -> None:
    """New workers with another sandbox serve new sessions. Sessions of the old ones continue, and count, to their end."""
    daemon = make_workers({"limits": {"sessions": 3}})
    old = workers(daemon)
    with secured(daemon) as client:
        data = open_transfer(client, "STOR file")
        own = worker_of(daemon, client)
        (tmp_path / "elsewhere" / "dave").mkdir(parents=True)
        daemon.users["dave"] = {"home": str(tmp_path / "elsewhere" / "dave")}
        daemon.write()
        daemon.reload()
        assert "reloaded: new sessions get the new configuration" in daemon.log
        wait_for(lambda: len(workers(daemon)) == 3)
        assert set(workers(daemon)) & set(old) == {own}
        with secured(daemon, "dave") as dave, secured(daemon, "dave"):
            assert dave.upload("STOR file", b"content").startswith("226")
            with FtpClient(daemon, greeting=False) as refused:
                assert refused.reply().startswith("421 Too many sessions")
        data.sendall(b"content")
        data.unwrap()  # type: ignore[attr-defined]
        data.close()
        assert client.reply().startswith("226")
        client.expect(200, "NOOP")
        client.expect(221, "QUIT")
    wait_for(lambda: len(workers(daemon)) == 2)
    assert "lost" not in daemon.log


@with_landlock
def test_nobody_logs_in_to_old_workers(make_workers: MakeDaemon, tmp_path: Path) -> None:
    """Old workers do not know who was removed, or what password counts now: all logins there get 421."""
    daemon = make_workers({"limits": {"login_failures": 9}})
    with FtpClient(daemon) as waiting, secured(daemon) as inside:
        waiting.start_tls()
        waiting.expect(331, "USER bob")
        (tmp_path / "elsewhere" / "carol").mkdir(parents=True)
        daemon.users = {
            "alice": {"password": hashes.make("other")},
            "carol": {"home": str(tmp_path / "elsewhere/carol")},
        }
        daemon.write()
        daemon.reload()
        assert waiting.command("PASS secret") == "421 Configuration has changed: connect again."
        assert inside.upload("STOR on", b"and on").startswith("226 ")
        daemon.users["dave"] = {}
        daemon.write()
        daemon.reload()  # the new workers load it, and the old one does not
        inside.expect(331, "USER alice")
        assert inside.command("PASS secret") == "421 Configuration has changed: connect again."
    with FtpClient(daemon) as alice, secured(daemon, "carol"), secured(daemon, "dave"):
        alice.start_tls()
        alice.login("alice", "other")
    wait_for(lambda: len(workers(daemon)) == 2)
    assert "lost" not in daemon.log


def test_a_reload_with_another_number_of_workers(make_workers: MakeDaemon) -> None:
    """Another number of workers takes effect at once; the old workers end with their last session."""
    daemon = make_workers()
    old = workers(daemon)
    with secured(daemon) as client:
        daemon.settings["workers"] = 3
        daemon.write()
        daemon.reload()
        wait_for(lambda: len(workers(daemon)) == 4)
        client.expect(200, "NOOP")
    wait_for(lambda: len(workers(daemon)) == 3)
    assert not set(old) & set(workers(daemon))


def test_a_port_that_is_taken_leaves_the_workers(make_workers: MakeDaemon) -> None:
    """A reload that fails after other workers were started ends them again."""
    daemon = make_workers()
    old = workers(daemon)
    daemon.settings["workers"] = 3
    daemon.settings["listen"].append({"address": "203.0.113.1", "port": daemon.passive[1] + 1})
    daemon.write()
    daemon.reload()
    assert "cannot listen on 203.0.113.1" in daemon.log
    wait_for(lambda: workers(daemon) == old)
    assert is_served(daemon)


# --- what it costs ---------------------------------------------------------------------------------


def test_a_worker_shares_its_memory(make_workers: MakeDaemon) -> None:
    """A worker needs less than 40 MiB (PSS), since it shares what was imported."""
    daemon = make_workers()
    assert is_served(daemon)
    assert max(map(pss, workers(daemon))) < 40 * 1024 * 1024


def test_sigterm_during_the_start(make_daemon: MakeDaemon) -> None:
    """A daemon whose workers are still starting ends as after any SIGTERM: with no error in the log."""
    daemon = make_daemon({"workers": 2}, start=False)
    with daemon.log_file.open("wb") as log, program(daemon.command(), stdout=log, stderr=log) as process:
        daemon.wait_for_log("may read the password hashes")  # the last line before the reactor runs
        time.sleep(0.1)
        process.terminate()
        assert process.wait(PATIENCE) in ENDED
    assert "Traceback" not in daemon.log and "#error]" not in daemon.log
