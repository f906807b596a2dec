"""The address that PASV announces, over IPv4, IPv6 and IPv4-mapped IPv6; host names that are looked up again."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from ftpsd.config.settings import NetworkOverride, PassiveSettings
from ftpsd.data.nat import Announcer
from tests.daemon import Daemon
from tests.ftpclient import FtpClient, secured

OUTSIDE = ipaddress.ip_address("198.51.100.7")
INSIDE = ipaddress.ip_address("10.1.2.3")
REACHED = ipaddress.ip_address("10.0.0.1")


def test_a_name_is_looked_up_again() -> None:
    """PASV announces the present address of a host name. While the resolver fails, the last address remains in use."""
    asked: list[Deferred[str]] = []

    def resolve(name: str) -> Deferred[str]:
        assert name == "ftp.example.com"
        asked.append(Deferred())
        return asked[-1]

    networks = (NetworkOverride((ipaddress.ip_network("10.0.0.0/8"),), None),)
    settings = PassiveSettings(address="ftp.example.com", networks=networks)
    announcer = Announcer(settings, resolve, {"ftp.example.com": "192.0.2.1"})
    assert str(announcer.announce(OUTSIDE, REACHED)) == "192.0.2.1"
    announcer.refresh()
    asked.pop().callback("192.0.2.2")
    assert str(announcer.announce(OUTSIDE, REACHED)) == "192.0.2.2"
    announcer.refresh()
    asked.pop().errback(socket.gaierror("the resolver is down"))
    assert str(announcer.announce(OUTSIDE, REACHED)) == "192.0.2.2"
    assert announcer.announce(INSIDE, REACHED) == REACHED


def needs_ipv6() -> None:
    """Skip the test on a machine without IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


def test_pasv_over_ipv6_names_epsv(make_daemon: Callable[..., Daemon]) -> None:
    """PASV cannot announce an IPv6 address and says so; EPSV, EPSV 2 and EPRT work."""
    needs_ipv6()
    with secured(make_daemon(address="::1")) as client:
        assert "EPSV" in client.expect(425, "PASV")
        client.expect(229, "EPSV 2")
        assert "(2)" in client.expect(522, "EPSV 1")
        client.expect(522, "PORT 127,0,0,1,200,1")
        client.expect(200, "EPRT |2|::1|50000|")
        assert client.upload("STOR six", b"6").startswith("226")
        assert client.download("RETR six") == b"6"


def test_ipv4_within_ipv6_is_ipv4(make_daemon: Callable[..., Daemon]) -> None:
    """A listener on "::" serves IPv4 clients as IPv4 clients."""
    needs_ipv6()
    daemon = make_daemon(address="::")
    daemon.host = "127.0.0.1"
    with secured(daemon) as client:
        assert "(127,0,0,1," in client.expect(227, "PASV")
        assert "(1)" in client.expect(522, "EPSV 2")
        assert client.upload("STOR four", b"4").startswith("226")
    assert "(127.0.0.1)> STOR four" in daemon.log


def test_a_literal_address_is_told(make_daemon: Callable[..., Daemon]) -> None:
    """PASV announces `passive.address`; it does not affect EPSV and clients from `networks`."""
    daemon = make_daemon({"passive": {"address": "192.0.2.9"}})
    with secured(daemon) as client:
        assert "(192,0,2,9," in client.expect(227, "PASV")
        assert client.upload("STOR f", b"by EPSV").startswith("226")
    exempt = [{"clients": ["127.0.0.0/8"], "address": None}]
    daemon = make_daemon({"passive": {"address": "192.0.2.9", "networks": exempt}})
    client = FtpClient(daemon)
    client.start_tls()
    assert "(127,0,0,1," in client.login().expect(227, "PASV")


def test_link_local_addresses(tmp_path: Path, certificate: Path) -> None:
    """A client with a link-local address transfers in passive and active mode, on its own link only."""
    needs_ipv6()
    root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    apart = ["unshare", "--net", *root]
    probe = [*apart, "ip", "link", "add", "one", "type", "veth", "peer", "name", "two"]
    if not (shutil.which("unshare") and shutil.which("ip")) or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("network namespaces cannot be made here")
    played = subprocess.run(
        [*apart, sys.executable, "-m", "tests.linklocal", str(tmp_path), str(certificate)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert played.returncode == 0, played.stderr
    said = json.loads(played.stdout)
    assert said["EPSV"].startswith("226 ")
    assert said["EPRT"].startswith("200 ") and said["EPRT%eth7"].startswith("200 ")
    assert said["EPRT to another"].startswith("501 ")
    assert said["down"] == said["active"] == "passive"
    assert "alice (fe80::1)> STOR passive: 226" in said["log"]
