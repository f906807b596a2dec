"""An upgrade: the next process of the service takes over the workers, and no transfer is cut.

Here the part of systemd is played: it keeps descriptors, and passes them on. `debian/tests/vm-upgrade` does it with
systemd and the package.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ftpsd.processes.supervision.launcher import ENDING
from tests.daemon import PATIENCE, Daemon, twistd
from tests.ftpclient import FtpClient, read_all, secured
from tests.processes import family, is_alive, wait_for, workers
from tests.test_service import start_upload

#: As systemd does: pass the descriptors from 3 on with their names, and name the process that they are for.
_EXEC = """
import fcntl, os, sys
names, descriptors, command = sys.argv[1], list(map(int, filter(None, sys.argv[2].split(",")))), sys.argv[3:]
high = [fcntl.fcntl(each, fcntl.F_DUPFD, 3 + len(descriptors)) for each in descriptors]
for each in descriptors:
    os.close(each)
for number, each in enumerate(high):
    os.dup2(each, 3 + number)
    os.close(each)
os.environ.update(LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=names, LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, *command])
"""


class ServiceManager:
    """Keeps descriptors for a service, and starts its processes."""

    def __init__(self, directory: Path) -> None:
        self.runtime = directory / "runtime"
        self.runtime.mkdir()
        self.kept: dict[str, int] = {}
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._address = str(directory / "notify")
        self._notify.bind(self._address)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._notify, 4096, 4)
            fields = dict(line.split("=", 1) for line in data.decode().split("\n") if "=" in line)
            if "STOP" in fields:
                return
            if "FDSTORE" in fields:
                self.kept[fields["FDNAME"]] = descriptors[0]
            if "FDSTOREREMOVE" in fields:
                os.close(self.kept.pop(fields["FDNAME"]))

    def start(self, daemon: Daemon) -> None:
        """Start the daemon with all that is kept."""
        names, descriptors = ":".join(self.kept), ",".join(map(str, self.kept.values()))
        command = twistd("-n", "--pidfile=", "ftpsd", "-c", str(daemon.config))[1:]
        with daemon.log_file.open("ab") as log:
            daemon.process = subprocess.Popen(
                [sys.executable, "-c", _EXEC, names, descriptors, *command],
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[*self.kept.values()],
                env={**os.environ, "NOTIFY_SOCKET": self._address, "RUNTIME_DIRECTORY": str(self.runtime)},
            )

    def restart(self, daemon: Daemon, suffix: str = ".old") -> None:
        """End the process, and start the next one. The log of the last one gets the suffix."""
        end_main_process(daemon)
        daemon.log_file.rename(f"{daemon.log_file}{suffix}")
        self.start(daemon)
        daemon.wait_for_log("has started")

    def forget(self) -> None:
        """Close all that is kept, as at the end of the service."""
        while self.kept:
            os.close(self.kept.popitem()[1])

    def close(self) -> None:
        """End."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"STOP=1", self._address)
        self._thread.join(PATIENCE)
        self.forget()
        self._notify.close()


def end_main_process(daemon: Daemon) -> None:
    """Send SIGTERM to the main process only, and wait for its end."""
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.wait(PATIENCE)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    """A service manager. At the end no process of the service is left."""
    made = ServiceManager(tmp_path)
    yield made
    made.close()


@pytest.fixture
def service(manager: ServiceManager, make_daemon: Callable[..., Daemon]) -> Iterator[Daemon]:
    """A daemon with two workers, started by the service manager."""
    limits = {"sessions_per_user": 3}
    daemon = make_daemon(settings={"workers": 2, "timeouts": {"drain": 2}, "limits": limits}, start=False)
    manager.start(daemon)
    daemon.wait_for_log("has started")
    yield daemon
    manager.forget()


CONTENT = bytes(range(256)) * (32 << 12)


def begin_download(client: FtpClient) -> ssl.SSLSocket:
    """Begin a download of 32 MiB, of which the client has read nothing."""
    connection = client.connect_data()
    client.expect(150, "RETR big")
    return client.secure_data(connection)


def end_download(client: FtpClient, data: ssl.SSLSocket) -> None:
    """Read the rest of it, and every byte must be right."""
    assert read_all(data) == CONTENT
    data.unwrap().close()
    assert client.reply().startswith("226 ")


def test_an_upgrade_cuts_no_transfer(service: Daemon, manager: ServiceManager) -> None:
    """An upload and a download outlive the process: the next one has their sessions, and counts them in the same limits."""
    (service.home() / "big").write_bytes(CONTENT)
    with secured(service) as one, secured(service) as other:
        upload, download = start_upload(one, "slow"), begin_download(other)
        old = workers(service)
        (manager.runtime / "upgrade").touch()
        manager.restart(service)
        assert service.pid not in old
        wait_for(lambda: not manager.kept, "the new process has taken everything")
        service.wait_for_log(r"worker \d+ \(process \d+\) was started by the old process: 1 of its sessions continue")
        with secured(service) as third:
            third.expect(200, "NOOP")
            with FtpClient(service) as fourth:  # three of the user's sessions are running
                fourth.start_tls()
                fourth.expect(331, "USER alice")
                fourth.expect(421, "PASS secret")
        upload.sendall(b"the rest")
        upload.unwrap().close()
        assert one.reply().startswith("226 ")
        end_download(other, download)
        for each in (one, other):
            assert each.reply().startswith("421 ")
    assert (service.home() / "slow").read_bytes().endswith(b"the rest")
    wait_for(lambda: not any(map(is_alive, old)), "the old workers end")
    with secured(service) as client:
        client.expect(200, "NOOP")


def test_a_second_upgrade_cuts_no_transfer(service: Daemon, manager: ServiceManager) -> None:
    """A worker is left to one process after another, with the transfer that runs since before the first upgrade."""
    (service.home() / "big").write_bytes(CONTENT)
    with secured(service) as one, secured(service) as other:
        upload, download = start_upload(one, "slow"), begin_download(other)
        old = workers(service)
        (manager.runtime / "upgrade").touch()
        for number in range(2):
            manager.restart(service, f".{number}")
            wait_for(lambda: not manager.kept, "the new process has taken everything")
            assert all(map(is_alive, old))
        upload.sendall(b"the rest")
        upload.unwrap().close()
        assert one.reply().startswith("226 ")
        end_download(other, download)
    assert (service.home() / "slow").read_bytes().endswith(b"the rest")
    wait_for(lambda: not any(map(is_alive, old)), "the old workers end")


def test_sessions_that_end_while_no_process_runs(service: Daemon, manager: ServiceManager) -> None:
    """Their worker tells the next process at once of their ends. The transfer of another session goes on."""
    with secured(service) as one:
        going_on = start_upload(one, "one")
        with secured(service) as other, secured(service) as third:
            uploads = [start_upload(other, "other"), start_upload(third, "third")]
            (manager.runtime / "upgrade").touch()
            end_main_process(service)
            for client, upload in zip((other, third), uploads, strict=True):
                upload.sendall(b"the rest")
                upload.unwrap().close()
                assert client.reply().startswith("226 ")
                assert client.reply().startswith("421 ")
        time.sleep(0.5)  # a worker collects the ends of sessions for a moment
        service.log_file.rename(f"{service.log_file}.old")
        manager.start(service)
        service.wait_for_log("1 of its sessions continue")
        with secured(service) as client:
            client.expect(200, "NOOP")
        going_on.sendall(b"the rest")
        going_on.unwrap().close()
        assert one.reply().startswith("226 ")
    assert (service.home() / "one").read_bytes().endswith(b"the rest")


def reply_to_login(daemon: Daemon) -> str:
    """Return the reply to a login of the user."""
    with FtpClient(daemon) as client:
        client.start_tls()
        client.expect(331, "USER alice")
        return client.command("PASS secret")


def test_workers_that_were_taken_over_are_killed(service: Daemon, manager: ServiceManager) -> None:
    """Their sessions leave all counts at once, so that the user may log in again."""
    with secured(service) as one, secured(service) as other, secured(service) as third:
        uploads = [start_upload(client, name) for client, name in zip((one, other, third), "abc", strict=True)]
        old = workers(service)
        (manager.runtime / "upgrade").touch()
        manager.restart(service)
        wait_for(lambda: not manager.kept, "the new process has taken everything")
        wait_for(lambda: service.log.count("of its sessions continue") == len(old), "it knows the sessions")
        assert reply_to_login(service).startswith("421 Too many sessions of this user (limit: 3)")
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        wait_for(lambda: reply_to_login(service).startswith("230 "), "the user may log in")
        assert time.monotonic() - began < ENDING
        for each in uploads:
            each.close()


def test_no_event_is_lost(service: Daemon, manager: ServiceManager) -> None:
    """Each upload that was answered before an upgrade is in the log of one process or of the other, once."""
    with secured(service) as one, secured(service) as other:
        for number in range(20):
            for client in (one, other):
                assert client.upload(f"STOR {number}", b"content").startswith("226 ")
        (manager.runtime / "upgrade").touch()
        manager.restart(service)
    logs = [Path(f"{service.log_file}.old"), service.log_file]
    wait_for(lambda: not manager.kept, "the new process has taken everything")
    assert sum(len(re.findall(r"STOR \d+: 226", each.read_text())) for each in logs) == 40


def test_workers_that_hang_keep_nobody_waiting(service: Daemon, manager: ServiceManager) -> None:
    """The next process starts and reloads. A worker that goes on is taken over then, and another one is killed."""
    with secured(service) as one, secured(service) as other:
        uploads = [start_upload(one, "one"), start_upload(other, "other")]
        first, second = old = workers(service)
        (manager.runtime / "upgrade").touch()
        for pid in old:
            os.kill(pid, signal.SIGSTOP)
        manager.restart(service)
        with secured(service, "bob") as client:
            client.expect(200, "NOOP")
        service.settings["banner"] = "second"
        service.write()
        service.reload()
        with FtpClient(service, greeting=False) as client:
            assert client.reply().startswith("220 second")
        os.kill(first, signal.SIGCONT)
        service.wait_for_log(
            rf"worker \d+ \(process {first}\) was started by the old process: 1 of its sessions continue"
        )
        service.wait_for_log(rf"worker \d+ \(process {second}\) does not respond, and is killed")
        wait_for(lambda: not is_alive(second), "it has ended")
        assert is_alive(first)
        for each in uploads:
            each.close()


def test_a_next_process_without_workers(service: Daemon, manager: ServiceManager) -> None:
    """With `workers: 1` now, it takes the listeners, systemd keeps nothing, and the old workers end as at a stop."""
    with secured(service) as client:
        data = start_upload(client, "slow")
        old = workers(service)
        service.settings["workers"] = 1
        service.write()
        (manager.runtime / "upgrade").touch()
        manager.restart(service)
        wait_for(lambda: not manager.kept, "systemd keeps nothing")
        with secured(service) as other:
            other.expect(200, "NOOP")
        wait_for(lambda: not any(map(is_alive, old)), "the old workers end")
        data.close()


def test_idle_sessions_end_and_new_ones_wait(service: Daemon, manager: ServiceManager) -> None:
    """At an upgrade a session without a transfer gets 421. A client that connects meanwhile is served by the next process."""
    with secured(service) as idle:
        (manager.runtime / "upgrade").touch()
        end_main_process(service)
        assert idle.reply().startswith("421 ")
        waiting = socket.create_connection((service.host, service.port), PATIENCE)
        service.log_file.rename(f"{service.log_file}.old")
        manager.start(service)
        service.wait_for_log("has started")
        assert waiting.recv(100).startswith(b"220")
        waiting.close()


def test_a_service_that_ends_after_all(service: Daemon, manager: ServiceManager) -> None:
    """If no process follows, the workers end with their transfers, or after `timeouts.drain`."""
    with secured(service) as client:
        data = start_upload(client, "slow")
        old = family(service)
        (manager.runtime / "upgrade").touch()
        end_main_process(service)
        manager.forget()
        wait_for(lambda: not any(map(is_alive, old)), "no process is left")
        data.close()


def test_without_the_wish_it_is_a_stop(service: Daemon, manager: ServiceManager) -> None:
    """A restart that nobody has announced ends everything first, within `timeouts.drain`."""
    with secured(service) as client:
        data = start_upload(client, "slow")
        old = family(service)
        end_main_process(service)
        assert not manager.kept
        assert not any(map(is_alive, old))
        with suppress(OSError):
            data.close()


def test_a_system_that_keeps_nothing(
    make_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without systemd the wish for an upgrade is refused with a line in the log, and the daemon stops as usual."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    daemon = make_daemon(settings={"workers": 2})
    old = family(daemon)
    (tmp_path / "upgrade").touch()
    daemon.stop()
    assert "cannot be handed over to the new process: NOTIFY_SOCKET is not set" in daemon.log_file.read_text()
    assert not any(map(is_alive, old))
