"""A client and a server with a router between them that translates addresses (NAT). See nat.py."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import run_apart
from tests.nat import DIGEST, HIDDEN, INNER, OUTER, SEEN

both_clients = pytest.mark.parametrize("client", [HIDDEN, SEEN], ids=["masqueraded", "seen"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> dict[str, Any]:
    """Return what curl has seen at the client, and what the daemons have logged."""
    return run_apart("tests.nat", tmp_path_factory.mktemp("nat"), certificate, programs=("curl",), timeout=100)


def announced(run: dict[str, Any]) -> set[str]:
    """Return the addresses that PASV has announced."""
    found = re.findall(r"^< 227 .*\((\d+),(\d+),(\d+),(\d+),\d+,\d+\)", run["said"], re.MULTILINE)
    return {".".join(parts) for parts in found}


def test_there_is_no_way_but_through_the_router(runs: dict[str, Any]) -> None:
    """The client cannot reach the server directly: all transfers below pass NAT."""
    assert runs["told direct"] == runs["untold direct"] == 7


@both_clients
def test_pasv_announces_the_routers_address(runs: dict[str, Any], client: str) -> None:
    """With passive.address PASV announces the router's address, and transfers work in both directions."""
    run = runs[f"told {client} PASV"]
    assert announced(run) == {OUTER}
    assert run["code"] == 0, run["said"]
    assert run["down"] == run["up"] == DIGEST


@both_clients
def test_pasv_without_the_override(runs: dict[str, Any], client: str) -> None:
    """Without passive.address PASV announces the private address, and a client that uses it gets nothing."""
    run = runs[f"untold {client} PASV"]
    assert announced(run) == {INNER}
    assert run["code"] in (7, 28), run["said"]
    assert run["down"] == ""


@both_clients
@pytest.mark.parametrize("daemon", ["told", "untold"])
@pytest.mark.parametrize("way", ["EPSV", "careful PASV"])
def test_ways_that_need_no_address(runs: dict[str, Any], daemon: str, client: str, way: str) -> None:
    """EPSV needs no address, nor does a client that uses the control connection's address after PASV."""
    run = runs[f"{daemon} {client} {way}"]
    assert run["code"] == 0, run["said"]
    assert run["down"] == run["up"] == DIGEST
    assert ("229 " in run["said"]) is (way == "EPSV")


def test_private_address_is_warned_of(runs: dict[str, Any]) -> None:
    """A private address announced to a client outside private networks is logged once, with the remedy.

    With passive.address it is not.
    """
    warning = rf"PASV announces the private address {re.escape(INNER)} to {re.escape(SEEN)}.*passive\.address"
    assert len(re.findall(warning, runs["untold log"])) == 1, runs["untold log"]
    assert "announces the private address" not in runs["told log"]


def test_nothing_is_left(runs: dict[str, Any]) -> None:
    """Afterwards the host has no namespace and no device of these tests."""
    assert runs
    for name in ("client", "router", "server"):
        assert not Path("/run/netns", name).exists()
    devices = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, timeout=10).stdout
    assert not re.search(r"^(wan|lan|inner|outer)\b", devices, re.MULTILINE)
