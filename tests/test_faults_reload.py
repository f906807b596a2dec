"""Reloads that go wrong: the old configuration remains in effect, whole, and the log says why."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpsd.cli.serve.self_signed import make_certificate
from tests.daemon import PATIENCE, Daemon
from tests.ftpclient import FtpClient, secured
from tests.hostile import wait_until


def greeting(daemon: Daemon) -> str:
    """Return the greeting of a new session."""
    with FtpClient(daemon, greeting=False) as client:
        return client.reply()


def test_reloads_in_a_row_end_with_the_last(make_daemon: Callable[..., Daemon]) -> None:
    """After several SIGHUPs in a row, the last configuration is in effect."""
    daemon = make_daemon()
    for number in range(20):
        daemon.settings["banner"] = f"banner {number}"
        daemon.write()
        os.kill(daemon.pid, signal.SIGHUP)
    deadline = time.monotonic() + PATIENCE
    while greeting(daemon) != "220 banner 19":
        assert time.monotonic() < deadline, daemon.log
    assert "Traceback" not in daemon.log


def reached(port: int, address: str) -> bool:
    """Return whether a daemon listens there."""
    try:
        socket.create_connection((address, port), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


def test_the_address_of_a_port_changes(make_daemon: Callable[..., Daemon]) -> None:
    """A listener moves to all addresses of the machine and back to another one.

    Sessions continue, and the log says so.
    """
    daemon = make_daemon()
    with secured(daemon) as session:
        for address, served, unserved in (
            ("0.0.0.0", ["127.0.0.1", "127.0.0.2"], []),
            ("127.0.0.2", ["127.0.0.2"], ["127.0.0.1"]),
        ):
            old = daemon.settings["listen"][0]["address"]
            daemon.settings["listen"][0]["address"] = address
            daemon.write()
            daemon.reload()
            daemon.wait_for_log(f"no longer listening on {re.escape(old)} port {daemon.port}")
            daemon.wait_for_log(f"listening on {re.escape(address)} port {daemon.port}, explicit TLS")
            assert all(reached(daemon.port, each) for each in served)
            for each in unserved:  # the socket goes in the reactor's next turn
                wait_until(lambda each=each: not reached(daemon.port, each), f"the end of {each}")
        session.expect(257, "PWD")
    daemon.host = "127.0.0.2"
    with secured(daemon) as session:
        session.expect(257, "PWD")


def test_an_address_that_is_not_ours(make_daemon: Callable[..., Daemon]) -> None:
    """A listener that should move to an address which the machine does not have stays, with a fault in the log."""
    daemon = make_daemon()
    daemon.settings["listen"][0]["address"] = "192.0.2.77"
    daemon.write()
    daemon.reload()
    daemon.wait_for_log(rf"not reloaded: .*cannot listen on 192\.0\.2\.77 port {daemon.port}: .*")
    with secured(daemon) as session:
        session.expect(257, "PWD")
    assert "Traceback" not in daemon.log


GARBAGE = {
    "binary": b"\x00\xff\xfe\x01" * 64,
    "not YAML": b"users: [alice: {",
    "another document": b"- a\n- b\n",
    "cut": b"users:\n  alice:\n    password: ",
    "empty": b"",
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE.keys())
def test_users_are_garbage(make_daemon: Callable[..., Daemon], content: bytes) -> None:
    """With garbage in users.yaml logins work as before; the log names the file and says what remains in effect."""
    daemon = make_daemon()
    daemon.users_file.write_bytes(content)
    daemon.reload()
    daemon.wait_for_log(rf"not reloaded: {re.escape(str(daemon.users_file))}:")
    daemon.wait_for_log("the old configuration remains in effect")
    with secured(daemon) as client:
        client.expect(257, "PWD")
    assert "Traceback" not in daemon.log


DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: path.unlink(),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "garbage": lambda path: path.write_bytes(b"\x00garbage"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "another one's": lambda path: make_certificate(path.parent / "other.pem", path),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("which", ["certificate", "private_key"])
def test_a_certificate_that_cannot_be_used(
    make_daemon: Callable[..., Daemon], tmp_path: Path, which: str, damage: Callable[[Path], object]
) -> None:
    """Certificate or key unreadable at a reload: the old pair remains in use, whole; the log names the file."""
    make_certificate(tmp_path / "certificate", tmp_path / "private_key")
    pair = {key: str(tmp_path / key) for key in ("certificate", "private_key")}
    daemon = make_daemon({"tls": pair})
    with secured(daemon) as before:
        old = before.socket.getpeercert(binary_form=True)  # type: ignore[attr-defined]
    damage(tmp_path / which)
    daemon.reload()
    daemon.wait_for_log(rf"not reloaded: .*tls\.(certificate|private_key): .*{re.escape(str(tmp_path))}")
    with secured(daemon) as after:
        assert after.socket.getpeercert(binary_form=True) == old  # type: ignore[attr-defined]
        assert after.upload("STOR f", b"moved").startswith("226")
    assert "Traceback" not in daemon.log
