"""The supervisor's end of the connection to the spawner: one that is busy is taken for nothing worse."""

from __future__ import annotations

import os

import pytest

from ftpsd.processes.forks import datagrams, spawning
from ftpsd.processes.forks.spawning import Spawner
from tests.links import LinkedWorkers

pytestmark = pytest.mark.quick


def test_a_spawner_that_reads_nothing_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it cannot be asked meanwhile is not known; a load goes on, and late answers are heard."""
    running = LinkedWorkers(0)
    ours, theirs = datagrams.pair()
    monkeypatch.setattr(spawning, "fork_spawner", lambda *_: (os.getpid(), ours))
    spawner, lost = Spawner(running.reactor, ""), list[bool]()
    spawner.fork(None, 0)  # type: ignore[arg-type]
    spawner.start(print, print, print, lambda: lost.append(True))
    faults, waited = list[list[str]](), list[float | None]()
    spawner.load().addCallback(faults.append)
    asked = 0
    while not waited:
        spawner.seconds_waited(1).addCallback(waited.append)
        asked += 1
    assert waited == [None] and not faults
    for _ in range(asked):
        message, _ = datagrams.receive(theirs)  # type: ignore[misc]
        name, number = message[:2]  # type: ignore[index]
        datagrams.send(theirs, ["waited", number, 1.5] if name == "waited" else ["loaded", number, []])
        running.turns(1)
    running.until(lambda: len(waited) == asked)
    assert faults == [[]]
    assert set(waited) == {None, 1.5}
    spawner.load().addCallback(faults.append)
    theirs.close()
    running.until(lambda: lost)
    assert faults == [[], [spawning.GONE]]
    spawner.load().addCallback(faults.append)
    assert faults[2:] == [[spawning.GONE]]
