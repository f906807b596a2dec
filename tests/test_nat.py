"""Behind NAT: a client and a server with a router between them that translates addresses. See nat.py."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.nat import DIGEST, HIDDEN, INNER, OUTER, SEEN

#: Everything happens in namespaces that end with their first process, however it ends.
APART = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]

#: What has to be possible, in namespaces of its own too.
PROBE = """
mount -t tmpfs none /run && mkdir /run/netns && ip netns add probe &&
ip -n probe link add one type veth peer name two &&
ip netns exec probe nft add table ip probe &&
ip netns exec probe nft add chain ip probe out '{ type nat hook postrouting priority srcnat; }' &&
ip netns exec probe nft add rule ip probe out masquerade
"""

both_clients = pytest.mark.parametrize("client", [HIDDEN, SEEN], ids=["masqueraded", "seen"])


def _apart() -> list[str]:
    root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [APART[0], *root, *APART[1:]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> dict[str, Any]:
    """What curl has seen on the client's side, and what the daemons have logged."""
    missing = [name for name in ("unshare", "ip", "nft", "mount", "curl") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    probe = subprocess.run([*_apart(), "sh", "-c", PROBE], capture_output=True, text=True, timeout=20)
    if probe.returncode:
        pytest.skip(f"network namespaces cannot be made here: {probe.stderr.strip()}")
    played = subprocess.run(
        [*_apart(), sys.executable, "-m", "tests.nat", str(tmp_path_factory.mktemp("nat")), str(certificate)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert played.returncode == 0, played.stderr
    result = json.loads(played.stdout)
    assert isinstance(result, dict)
    return result


def announced(run: dict[str, Any]) -> set[str]:
    """The addresses that PASV has told."""
    found = re.findall(r"^< 227 .*\((\d+),(\d+),(\d+),(\d+),\d+,\d+\)", run["said"], re.MULTILINE)
    return {".".join(parts) for parts in found}


def test_there_is_no_way_but_through_the_router(runs: dict[str, Any]) -> None:
    """The client cannot reach the server itself: what passes below has passed NAT."""
    assert runs["told direct"] == runs["untold direct"] == 7


@both_clients
def test_pasv_announces_the_routers_address(runs: dict[str, Any], client: str) -> None:
    """With passive.address PASV tells the router's address, and transfers pass both ways."""
    run = runs[f"told {client} PASV"]
    assert announced(run) == {OUTER}
    assert run["code"] == 0, run["said"]
    assert run["down"] == run["up"] == DIGEST


@both_clients
def test_pasv_without_the_override(runs: dict[str, Any], client: str) -> None:
    """Without passive.address PASV tells the private address, and a client that believes it gets nothing."""
    run = runs[f"untold {client} PASV"]
    assert announced(run) == {INNER}
    assert run["code"] in (7, 28), run["said"]
    assert run["down"] == ""


@both_clients
@pytest.mark.parametrize("daemon", ["told", "untold"])
@pytest.mark.parametrize("way", ["EPSV", "careful PASV"])
def test_ways_that_need_no_address(runs: dict[str, Any], daemon: str, client: str, way: str) -> None:
    """EPSV needs no address, nor does a client that takes the control connection's for PASV."""
    run = runs[f"{daemon} {client} {way}"]
    assert run["code"] == 0, run["said"]
    assert run["down"] == run["up"] == DIGEST
    assert ("229 " in run["said"]) is (way == "EPSV")


def test_private_address_is_warned_of(runs: dict[str, Any]) -> None:
    """A private address told to a client that is not in a private network is a warning, once, with the
    remedy; with passive.address set there is none."""
    warning = rf"PASV announces the private address {re.escape(INNER)} to {re.escape(SEEN)}.*passive\.address"
    assert len(re.findall(warning, runs["untold log"])) == 1, runs["untold log"]
    assert "announces the private address" not in runs["told log"]


def test_nothing_is_left(runs: dict[str, Any]) -> None:
    """The host has no namespace and no device of these tests."""
    assert runs
    for name in ("client", "router", "server"):
        assert not Path("/run/netns", name).exists()
    devices = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, timeout=10).stdout
    assert not re.search(r"^(wan|lan|inner|outer)\b", devices, re.MULTILINE)
