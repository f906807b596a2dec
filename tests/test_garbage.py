"""Garbage collections: none that takes long while a configuration is loaded, and nothing old is left to them."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from ftpsd.config import load
from ftpsd.system.memory.garbage import no_full_collections
from ftpsd.system.periodic import PeriodicTask


@pytest.fixture
def collected() -> Callable[[], list[int]]:
    """Return the generations that were collected since the last call."""
    found: list[int] = []

    def note(phase: str, details: dict[str, int]) -> None:
        if phase == "stop":
            found.append(details["generation"])

    def take() -> list[int]:
        taken = found[:]
        found.clear()
        return taken

    gc.callbacks.append(note)
    try:
        yield take  # type: ignore[misc]
    finally:
        gc.callbacks.remove(note)


def allocate() -> list[list[object]]:
    """Make as many objects as many users are."""
    return [[None, []] for _ in range(300_000)]


def test_no_full_collections(collected: Callable[[], list[int]]) -> None:
    """Only young objects are collected in a block, in all threads, until the last of two blocks has ended."""
    allocate()
    assert 2 in collected()
    with no_full_collections():
        with no_full_collections():
            pass
        thread = threading.Thread(target=allocate)
        thread.start()
        thread.join()
        allocate()
        assert {0, 1} == set(collected())
    allocate()
    assert 2 in collected()


def test_the_thresholds_after_an_error() -> None:
    """A block that fails leaves the thresholds as they were."""
    before = gc.get_threshold()
    with pytest.raises(OSError), no_full_collections():
        assert gc.get_threshold() != before
        raise OSError
    assert gc.get_threshold() == before


def test_a_periodic_task_is_freed_with_what_it_uses() -> None:
    """A task that was replaced is freed at once: it may have the homes of 100,000 users."""

    class Homes:
        pass

    homes = Homes()
    known = weakref.ref(homes)
    gc.disable()
    try:
        task = PeriodicTask(Clock(), "a task", lambda homes=homes: None)  # type: ignore[misc]
        del homes
        task.start(1)
        task.stop()
        del task
        assert known() is None
    finally:
        gc.enable()


def test_a_reload_makes_no_full_collection(tmp_path: Path, collected: Callable[[], list[int]]) -> None:
    """The load of a daemon with sessions makes none, however many values the file has, and whatever becomes of it."""

    class Reactor:
        def callFromThread(self, function: Callable[..., object], *arguments: object) -> None:
            function(*arguments)

    (tmp_path / "users.yaml").write_text("users:\n" + "".join(f"  user{n}: {{groups: [a]}}\n" for n in range(5000)))
    (tmp_path / "ftpsd.yaml").write_text("tls: {certificate: c.pem, private_key: k.pem}\n")
    before = gc.get_threshold()
    gc.collect()
    collected()
    ended = threading.Event()
    load.reload(Reactor(), str(tmp_path / "ftpsd.yaml")).addBoth(lambda result: ended.set())  # type: ignore[arg-type]
    assert ended.wait(60)
    assert 2 not in collected()
    assert gc.get_threshold() == before
