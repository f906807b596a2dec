"""Last logins: what is stored of them, and what survives."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from ftpsd.accounts.last_logins import LastLogin, stored
from ftpsd.system.state import FILE, State
from tests.daemon import PATIENCE, Daemon
from tests.ftpclient import secured


def last_logins(directory: Path, *names: str) -> dict[str, LastLogin]:
    """The stored last logins, when exactly these users have one."""
    end = time.monotonic() + PATIENCE
    while True:
        state = State(directory / FILE)
        found = stored(state)
        state.close()
        if found.keys() == set(names):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.1)


def test_last_logins_survive(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A login is stored within seconds and survives a kill; the newest counts; failed ones do not; who is gone goes."""
    place = tmp_path / "state"
    place.mkdir(mode=0o700)
    settings = {"state": {"directory": str(place)}, "limits": {"login_failures": 1}}
    daemon = make_daemon(settings, users={"alice": {}, "bob": {}, "carol": {}})
    begin = time.time()
    with secured(daemon, "alice"), secured(daemon, "bob"):
        first = last_logins(place, "alice", "bob")
    assert all(begin - 1 <= each.time <= time.time() and each.address == "127.0.0.1" for each in first.values())
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait()
    daemon.start()
    with secured(daemon, "alice"):
        pass
    daemon.stop()  # what was not stored yet is stored at the end
    second = last_logins(place, "alice", "bob")
    assert second["alice"].time > first["alice"].time and second["bob"] == first["bob"]

    with sqlite3.connect(place / FILE) as file:  # what others have written there, and a user who was removed
        file.execute("INSERT INTO last_logins VALUES ('carol', 'never', 7), ('nobody', 1.0, '::1'), ('d', 9e300, '')")
    del daemon.users["bob"]
    daemon.write()
    daemon.start()
    assert last_logins(place, "alice").keys() == {"alice"}
    del daemon.users["alice"]
    daemon.users["eve"] = {}
    daemon.write()
    daemon.reload()
    assert last_logins(place) == {}
