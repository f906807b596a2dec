"""The resolver fails, and `passive.address` is a host name. The test has a file `hosts` of its own."""

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
    """Return the hosts that the resolver knows, for a command with `prefix`."""
    return Hosts(tmp_path)


class Hosts:
    """A file in place of /etc/hosts and no name server, in a mount namespace."""

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
        """Give the name this address from now on, or none."""
        self._hosts.write_text(f"{address} {NAME}\n" if address else "")


def announced(client: FtpClient) -> str:
    """Return the address that PASV announces."""
    return client.expect(227, "PASV").partition("(")[2].rpartition(",")[0].rpartition(",")[0].replace(",", ".")


def test_no_resolver_at_start(make_daemon: Callable[..., Daemon], hosts: Hosts) -> None:
    """A name that cannot be looked up at the start is a fault with its key, and the exit status is 1."""
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
    """While the resolver fails, the last address remains in use, and the log says so; a new address is used."""
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


def test_older_sessions_announce_a_new_address(make_daemon: Callable[..., Daemon], hosts: Hosts) -> None:
    """A session that began before a reload announces the new address, too, whatever the new configuration says."""
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
    """A name is not looked up again before the last look-up has ended: each would occupy one more thread."""
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
