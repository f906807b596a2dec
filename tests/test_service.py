"""The daemon as a service: notifications to systemd, inherited sockets, graceful stop, warnings at the start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from ftpsd.protocol.addresses import plain_address
from ftpsd.system.systemd.notifier import Notifier
from ftpsd.system.systemd.sockets import Inherited, choose
from tests.daemon import PATIENCE, Daemon, ftpsd, twistd
from tests.ftpclient import FtpClient, secured
from tests.hostile import wait_until

#: Exit statuses of twistd after SIGTERM: newer releases end by the signal that they received.
ENDED = (0, -signal.SIGTERM)


@pytest.fixture
def notifications(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """The socket that systemd would listen on. Daemons that are started after this send to it."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(tmp_path / "notify"))
    receiver.settimeout(PATIENCE)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return receiver


def receive(receiver: socket.socket, word: str) -> str:
    """Return the next message that contains a word; skip others."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        message = receiver.recv(4096).decode()
        if word in message:
            return message
    raise AssertionError(f"{word} was not sent")


def test_systemd_is_notified(notifications: socket.socket, make_daemon: Callable[..., Daemon]) -> None:
    """The daemon sends READY when all listeners are bound, then the session count, RELOADING and READY, and STOPPING."""
    daemon = make_daemon()
    assert "STATUS=0 sessions" in receive(notifications, "READY=1")
    with secured(daemon):
        assert "WATCHDOG=1" in receive(notifications, "STATUS=1 session")
        daemon.settings["banner"] = 3
        daemon.write()
        daemon.reload()
        assert "MONOTONIC_USEC=" in receive(notifications, "RELOADING=1")
        assert f"{daemon.config}:" in receive(notifications, "READY=1")
        daemon.settings["banner"] = "good"
        daemon.write()
        daemon.reload()
        assert "STATUS=1 session" in receive(notifications, "READY=1").split("\n")
    daemon.stop()
    receive(notifications, "STOPPING=1")


def test_systemd_that_does_not_read_delays_nothing(notifications: socket.socket) -> None:
    """Heartbeats that systemd does not read are dropped without a wait. The status is sent when it reads again."""
    clock, sessions = Clock(), [0]
    notifier = Notifier(clock, lambda: sessions[0])
    notifier.ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as filler:
        with pytest.raises(BlockingIOError):
            while True:
                filler.sendto(b"", notifications.getsockname())
    sessions[0] = 7
    start = time.monotonic()
    clock.pump([1] * 60)
    assert time.monotonic() - start < 30  # with a wait it would be a second for each
    assert notifications.recv(4096).startswith(b"READY=1")
    while notifications.recv(4096, socket.MSG_PEEK) == b"":
        notifications.recv(4096)
        clock.advance(1)
    assert "STATUS=7 sessions" in receive(notifications, "WATCHDOG=1")


def start_upload(client: FtpClient, name: str) -> socket.socket:
    """Start an upload, and return its data connection."""
    port = client.passive_port()
    connection = client.connect_data(port)
    client.expect(150, f"STOR {name}")
    data = client.secure_data(connection)
    data.sendall(b"begun, ")
    return data


def test_running_transfers_finish(make_daemon: Callable[..., Daemon]) -> None:
    """After SIGTERM idle and new sessions get 421. A running transfer finishes with 226, and then gets 421 too."""
    daemon = make_daemon({"timeouts": {"drain": 20}})
    with secured(daemon) as idle, secured(daemon) as busy:
        data = start_upload(busy, "slow")
        os.kill(daemon.pid, signal.SIGTERM)
        assert idle.reply().startswith("421 ")
        late = FtpClient(daemon, greeting=False)
        assert late.reply().startswith("421 ")
        data.sendall(b"and ended")
        data.unwrap().close()
        assert busy.reply().startswith("226 ")
        assert busy.reply().startswith("421 ")
    assert daemon.process is not None
    assert daemon.process.wait(PATIENCE) in ENDED
    assert (daemon.home() / "slow").read_bytes() == b"begun, and ended"
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("signals", [1, 2], ids=["timeout", "second signal"])
def test_graceful_stop_ends(make_daemon: Callable[..., Daemon], signals: int) -> None:
    """After `timeouts.drain`, or a second SIGTERM, running uploads are aborted, and their files are not published."""
    daemon = make_daemon({"timeouts": {"drain": 1 if signals == 1 else 600}})
    with secured(daemon) as busy:
        data = start_upload(busy, "slow")
        os.kill(daemon.pid, signal.SIGTERM)
        daemon.wait_for_log("SIGTERM")
        if signals == 2:
            time.sleep(0.5)  # until the first is being handled
            os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.process is not None
        assert daemon.process.wait(PATIENCE) in ENDED
        assert busy.reply().startswith("421 ")
        data.close()
    assert not (daemon.home() / "slow").exists()


def refuses(port: int) -> bool:
    """Return whether a new client gets 421. One that connected before the stop waits for TLS instead."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.settimeout(0.5)
        try:
            return client.recv(100).startswith(b"421 ")
        except TimeoutError:
            return False


def test_sockets_are_inherited(make_daemon: Callable[..., Daemon]) -> None:
    """With LISTEN_FDS the daemon serves the sockets of systemd, which may be in blocking mode."""
    daemon = make_daemon(start=False)
    listener = socket.create_server(("127.0.0.1", daemon.port))
    # As systemd does: pass the socket as descriptor 3, and name the process that it is for.
    script = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
        "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )
    command = twistd("-n", "--pidfile=", "ftpsd", "-c", str(daemon.config))[1:]
    with daemon.log_file.open("wb") as log:
        daemon.process = subprocess.Popen(
            [sys.executable, "-c", script, str(listener.fileno()), *command],
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
        )
    daemon.wait_for_log("implicit TLS")
    for _ in range(2):
        with secured(daemon) as client:
            client.expect(200, "NOOP")
    with secured(daemon) as busy:
        data = start_upload(busy, "slow")
        os.kill(daemon.pid, signal.SIGTERM)
        wait_until(lambda: refuses(daemon.implicit_port), "a 421 at the daemon's own listener")
        # During the graceful stop, connections to the socket of systemd wait for the next daemon.
        waiting = socket.create_connection(("127.0.0.1", daemon.port), PATIENCE)
        data.unwrap().close()
        assert busy.reply().startswith("226 ")
    assert daemon.process.wait(PATIENCE) in ENDED
    accepted, _ = listener.accept()
    accepted.close()
    waiting.close()


def test_sockets_are_chosen_by_address() -> None:
    """Of two sockets on one port, each serves the entry with its address. The only socket on a port serves any entry."""
    here, there = (
        Inherited(3, socket.AF_INET, plain_address("192.0.2.1"), 21),
        Inherited(4, socket.AF_INET6, plain_address("2001:db8::1"), 21),
    )
    every = Inherited(5, socket.AF_INET6, plain_address("::"), 990)
    sockets = [here, there, every]
    assert choose(sockets, "2001:db8::1", 21) is there
    assert choose(sockets, "192.0.2.1", 21) is here
    assert choose(sockets, "192.0.2.7", 21) is None
    assert choose([here], "192.0.2.7", 21) is here
    assert choose(sockets, "0.0.0.0", 990) is every
    assert choose(sockets, "::", 2121) is None


def test_certificate_that_expires_soon(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """`ftpsd check` and the daemon warn of a certificate that expires within 14 days, and accept it."""
    daemon = make_daemon(start=False)
    subject = ["-subj", "/CN=x", "-days", "10", "-keyout", tmp_path / "k.pem", "-out", tmp_path / "c.pem"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*made, *subject], check=True, capture_output=True, timeout=30)
    daemon.settings["tls"].update(certificate=str(tmp_path / "c.pem"), private_key=str(tmp_path / "k.pem"))
    daemon.write()
    checked = subprocess.run(ftpsd("check", "-c", str(daemon.config)), capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0
    assert "c.pem expires in 9 days: renew it" in checked.stderr
    daemon.start()
    daemon.wait_for_log("expires in 9 days")


def test_home_that_contains_the_hashes(make_daemon: Callable[..., Daemon]) -> None:
    """`ftpsd check` and the daemon warn of a user who can read users.yaml."""
    daemon = make_daemon(users={"alice": {"home": "."}, "bob": {}}, start=False)
    checked = subprocess.run(ftpsd("check", "-c", str(daemon.config)), capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0
    assert checked.stderr.count("the home ") == 1
    assert f"the home {daemon.directory} contains " in checked.stderr
    daemon.start()
    daemon.wait_for_log(f"the home {daemon.directory} contains ")
