"""The time of day is set forward and back while the daemon runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpsd.storage.local.part_files import part_name
from tests.daemon import Daemon
from tests.ftpclient import FtpClient, read_all, secured
from tests.hostile import wait_until
from tests.test_service import start_upload

DAY = 86_400

#: The clock's file is not one that the daemon may read.
SETTINGS = {"sandbox": {"landlock": "off"}}


class Clock:
    """The time of day of a daemon that is started with `prefix` (libfaketime; the monotonic clock is not changed)."""

    def __init__(self, directory: Path) -> None:
        library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
        if library is None:
            pytest.skip("libfaketime is not installed")
        self._file = directory / "clock"
        self.jump(0)
        self.prefix = (
            "env",
            f"LD_PRELOAD={library}",
            f"FAKETIME_TIMESTAMP_FILE={self._file}",
            "FAKETIME_NO_CACHE=1",
            "DONT_FAKE_MONOTONIC=1",
            "NO_FAKE_STAT=1",
        )

    def jump(self, seconds: int) -> None:
        """Set the time of day forward by this many seconds, or back."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """A clock that the test can set."""
    return Clock(tmp_path)


@pytest.mark.parametrize("hours", [20, -20], ids=["forth", "back"])
def test_sessions_and_transfers_do_not_notice(make_daemon: Callable[..., Daemon], clock: Clock, hours: int) -> None:
    """When the clock is set, sessions continue, a running upload is completed, and a passive port stays open."""
    daemon = make_daemon(SETTINGS, start=False).start(clock.prefix)
    with secured(daemon) as idle, secured(daemon) as busy:
        port = idle.passive_port()
        data = start_upload(busy, "f")
        clock.jump(hours * 3600)
        with secured(daemon) as late:  # the daemon has seen it
            late.expect(257, "PWD")
        data.sendall(b"and ended")
        data.unwrap().close()
        assert busy.reply().startswith("226 ")
        connection = idle.connect_data(port)
        idle.expect(150, "LIST")
        listing = idle.secure_data(connection)
        read_all(listing)
        listing.unwrap().close()
        assert idle.reply().startswith("226 ")
    assert (daemon.home() / "f").read_bytes() == b"begun, and ended"
    assert " 421 " not in daemon.log
    assert "Traceback" not in daemon.log


def test_part_files_that_seem_old(make_daemon: Callable[..., Daemon], clock: Clock) -> None:
    """When the clock is set beyond `keep_parts`, the next sweep removes part files; here that of a reload."""
    daemon = make_daemon({"uploads": {"keep_parts": 7 * DAY}, **SETTINGS}, start=False).start(clock.prefix)
    part, canary = daemon.home() / part_name("cut"), daemon.home() / (part_name("canary") + "-a")
    part.write_bytes(b"some of it")
    with secured(daemon) as client:
        for days in (6, 8):
            assert part.exists()
            canary.touch()
            os.utime(canary, (0, 0))
            clock.jump(days * DAY)
            daemon.reload()
            wait_until(lambda: not canary.exists(), "the sweep")
        wait_until(lambda: not part.exists(), "it is gone")
        client.expect(257, "PWD")
    daemon.wait_for_log("removed old part files: 2, ")
    assert "Traceback" not in daemon.log


def test_tickets_that_seem_old(make_daemon: Callable[..., Daemon], clock: Clock) -> None:
    """When the clock is set beyond the life of TLS tickets, data connections get 522; a new session works."""
    daemon = make_daemon(SETTINGS, start=False).start(clock.prefix)
    with secured(daemon) as old:
        clock.jump(3650 * DAY)
        connection = old.connect_data()
        old.expect(150, "LIST")
        with pytest.raises(OSError):
            read_all(old.secure_data(connection))
            raise ConnectionError("nothing was sent")  # what TLS 1.3 lets a client see first is chance
        assert old.reply().startswith("522 ")
        old.expect(257, "PWD")
    with secured(daemon) as new:
        assert new.upload("STOR f", b"moved").startswith("226")
    daemon.wait_for_log("LIST: 522 ")


def test_timeouts_hold(make_daemon: Callable[..., Daemon], clock: Clock) -> None:
    """Setting the clock back by a day does not change when timeouts end."""
    daemon = make_daemon({"timeouts": {"login": 3}, **SETTINGS}, start=False).start(clock.prefix)
    with FtpClient(daemon) as before:
        clock.jump(-DAY)
        with FtpClient(daemon) as after:
            assert before.reply().startswith("421 ")
            assert after.reply().startswith("421 ")
    assert "Traceback" not in daemon.log


def test_the_certificate_seems_to_have_expired(make_daemon: Callable[..., Daemon], clock: Clock) -> None:
    """With a clock far in the future, a reload warns that the certificate has expired, and the daemon still serves."""
    daemon = make_daemon(SETTINGS, start=False).start(clock.prefix)
    clock.jump(1000 * DAY)
    daemon.reload()
    daemon.wait_for_log("has expired")
    with secured(daemon) as client:
        client.expect(257, "PWD")
    clock.jump(0)
    daemon.reload()
    with secured(daemon) as client:
        client.expect(257, "PWD")
    assert daemon.log.count("has expired") == 1
