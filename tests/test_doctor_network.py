"""`ftpsd doctor --from` through a real router: NAT and firewalls are told apart. See doctor_nat.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import run_apart
from tests.nat import INNER
from tests.test_doctor_client import found


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> dict[str, Any]:
    """The reports, by what the router does."""
    return run_apart("tests.doctor_nat", tmp_path_factory.mktemp("nat"), certificate, timeout=300)


def test_good_nat_has_no_finding(played: dict[str, Any]) -> None:
    """Through a router that forwards all ports, with `passive.address` set, all checks pass."""
    report = played["runs"]["good"]
    assert (found(report), report["status"]) == ({}, 0)


def test_private_address_announced(played: dict[str, Any]) -> None:
    """A private address in 227 is named, with the line that sets the public one; EPSV transfers still work."""
    report = played["runs"]["untold"]
    assert list(found(report)) == ["passive.private_address"]
    assert INNER in found(report)["passive.private_address"]
    assert "passive:\n  address:" in report["findings"][0]["paste"]
    assert any("upload" in each for each in report["passed"])


@pytest.mark.parametrize(
    ("run", "code", "status"),
    [
        ("control dropped", "control.filtered", 3),
        ("control reset", "control.closed", 3),
        ("control prohibited", "control.unreachable", 3),
        ("passive dropped", "passive.filtered", 1),
        ("passive reset", "passive.closed", 1),
    ],
)
def test_firewalls(played: dict[str, Any], run: str, code: str, status: int) -> None:
    """Dropped, rejected and prohibited packets are told apart, for the control port and for passive ports."""
    report = played["runs"][run]
    assert (code in found(report), report["status"]) == (True, status), report


def test_which_ports_get_through(played: dict[str, Any]) -> None:
    """Where some passive ports are filtered, the finding lists both kinds, and they are the right ones."""
    report = played["runs"]["passive half dropped"]
    findings = found(report)
    # The daemon chooses four ports by chance: they may all be of one kind.
    passed = next((each for each in report["passed"] if each.startswith("passive ports")), "")
    problem = findings.get("passive.some_filtered") or findings.get("passive.filtered") or f"Open are {passed}"
    filtered, _, opened = problem.partition("Open are")
    ports = [{int(each) for each in re.findall(r"\b\d{5}\b", part)} for part in (filtered, opened)]
    assert all(port <= played["middle"] for port in ports[0])
    assert all(port > played["middle"] for port in ports[1])
    assert sum(map(len, ports)) > 0
