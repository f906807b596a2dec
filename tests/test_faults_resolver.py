"""The resolver fails: `passive.address` is a host name. The names are those of a file `hosts` of the test's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from ftpsd.config.settings import PassiveSettings
from ftpsd.data.nat import Announcer
from tests.daemon import PATIENCE, Daemon, ftpsd
from tests.ftpclient import FtpClient, secured

NAME = "nat.ftpsd.test"
NAMED = {"passive": {"address": NAME, "refresh": 1}}


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    """What the machine's resolver knows, for a command with `prefix`."""
    return Hosts(tmp_path)


class Hosts:
    """A file in place of /etc/hosts, and no name server, in a mount namespace."""

    def __init__(self, directory: Path) -> None:
        self._hosts, silent = directory / "hosts", directory / "resolv.conf"
        silent.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        self.tell("192.0.2.1")
        script = f'mount --bind {self._hosts} /etc/hosts && mount --bind {silent} /etc/resolv.conf && exec "$@"'
        user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        self.prefix = ("unshare", "--mount", *user, "sh", "-c", script, "sh")
        probe = subprocess.run([*self.prefix, "true"], capture_output=True, text=True, timeout=PATIENCE)
        if probe.returncode:
            pytest.skip(f"mount namespaces cannot be made here: {probe.stderr.strip()}")

    def tell(self, address: str | None) -> None:
        """From now on the name has this address, or none."""
        self._hosts.write_text(f"{address} {NAME}\n" if address else "")


def announced(client: FtpClient) -> str:
    """The address that PASV tells."""
    return client.expect(227, "PASV").partition("(")[2].rpartition(",")[0].rpartition(",")[0].replace(",", ".")


def test_no_resolver_at_start(make_daemon: Callable[..., Daemon], hosts: Hosts) -> None:
    """A name that cannot be looked up at start is a fault that names the key; the daemon ends with 1."""
    hosts.tell(None)
    daemon = make_daemon(NAMED, start=False)
    command = [*hosts.prefix, *ftpsd("check", "-c", str(daemon.config))]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert checked.returncode == 1
    assert f"passive.address: {NAME} has no IPv4 address" in checked.stderr
    daemon.start(hosts.prefix)
    assert daemon.process is not None
    assert daemon.process.wait(PATIENCE) == 1
    assert f"passive.address: {NAME} has no IPv4 address" in daemon.log


def test_no_resolver_later(make_daemon: Callable[..., Daemon], hosts: Hosts) -> None:
    """While the resolver fails the last good answer stays, and the log says so; a new answer is taken."""
    daemon = make_daemon(NAMED, start=False).start(hosts.prefix)
    with secured(daemon) as client:
        assert announced(client) == "192.0.2.1"
        hosts.tell(None)
        daemon.wait_for_log(rf"{NAME} cannot be looked up \(.*\); 192\.0\.2\.1 remains in use")
        assert announced(client) == "192.0.2.1"
        hosts.tell("192.0.2.2")
        daemon.wait_for_log(rf"{NAME} is 192\.0\.2\.2")
        assert announced(client) == "192.0.2.2"
    assert "Traceback" not in daemon.log


def test_older_sessions_hear_of_a_new_address(make_daemon: Callable[..., Daemon], hosts: Hosts) -> None:
    """A session that began before a reload is told the new address too, whatever the new configuration says."""
    daemon = make_daemon(NAMED, start=False).start(hosts.prefix)
    with secured(daemon) as client:
        daemon.settings["passive"]["address"] = "192.0.2.9"
        daemon.write()
        daemon.reload()
        hosts.tell("192.0.2.2")
        daemon.wait_for_log(rf"{NAME} is 192\.0\.2\.2")
        assert announced(client) == "192.0.2.2"
        with secured(daemon) as new:
            assert announced(new) == "192.0.2.9"


def test_a_silent_resolver() -> None:
    """A name is not looked up again before its last look-up has ended: it would cost one more thread each time."""
    asked: list[Deferred[str]] = []

    def resolve(_: str) -> Deferred[str]:
        asked.append(Deferred())
        return asked[-1]

    announcer = Announcer(PassiveSettings(address=NAME), resolve, {})
    announcer.refresh()
    announcer.refresh()
    assert len(asked) == 1
    asked[0].errback(OSError("no answer"))
    announcer.refresh()
    assert len(asked) == 2
