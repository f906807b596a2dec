"""Child services of the daemon: the order in which they start and stop, at each release of Twisted."""

from __future__ import annotations

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred

from ftpsd.system.part import Part


def test_parts_stop_in_reverse_order() -> None:
    """Parts stop in the reverse order of their start, and the daemon waits for one that takes time."""
    calls: list[str] = []
    closed: Deferred[None] = Deferred()
    daemon = MultiService()
    daemon.addService(Part(lambda: calls.append("open state"), lambda: calls.append("close state")))
    daemon.addService(Part(lambda: calls.append("open listeners"), lambda: calls.append("close listeners") or closed))
    daemon.startService()
    assert calls == ["open state", "open listeners"]
    stopped = daemon.stopService()
    assert calls[2:] == ["close listeners", "close state"]
    assert not stopped.called
    closed.callback(None)
    assert stopped.called
