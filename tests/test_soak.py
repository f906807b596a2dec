"""Load and endurance in small; `python -m benchmarks.soak` is the same in large (docs/reliability.md)."""

from __future__ import annotations

from pathlib import Path

from benchmarks.soak import churn, hostile, sessions


def test_many_sessions(tmp_path: Path, certificate: Path) -> None:
    """Sessions that idle and sessions that transfer are served to the end, and leave nothing behind."""
    report = sessions.run(tmp_path, certificate, sessions.Load(sessions=60, moving=6, seconds=1, processes=1))
    assert not report.faults, report.table()


def test_churn(tmp_path: Path, certificate: Path) -> None:
    """After 300 sessions, every tenth cut at a random byte, the daemon holds what it held before."""
    timeouts = tuple((name, 20) for name in ("login", "idle", "data_connect", "stalled"))
    report = churn.run(tmp_path, certificate, churn.Load(sessions=300, silence=1, timeouts=timeouts))
    assert not report.faults, report.table()


def test_hostile_clients(tmp_path: Path, certificate: Path) -> None:
    """Beside clients that are slow, silent, or many, one that behaves logs in and transfers; they leave nothing behind."""
    together = {"all at once": [method for methods in hostile.ATTACKS.values() for method in methods]}
    load = hostile.Load(seconds=1, clients=10, addresses=4, processes=1, connects=300, attacks=together)
    report = hostile.run(tmp_path, certificate, load)
    assert not report.faults, report.table()
