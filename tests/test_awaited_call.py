"""A worker thread that waits for a call in the reactor thread, but only for a moment."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from ftpsd.system.reactor_calls import AwaitedCall

pytestmark = pytest.mark.quick


class Notes(list[str]):
    """What was called, in order."""

    def note(self, word: str) -> Callable[[], None]:
        """Return a function that adds a word."""
        return lambda: self.append(word)


def test_a_call_that_is_made_in_time() -> None:
    """The thread continues, and nothing follows in the reactor."""
    notes = Notes()
    call = AwaitedCall(notes.note("made"), notes.note("followed"))
    reactor = threading.Timer(0.05, call.make)
    reactor.start()
    assert call.wait(30)
    reactor.join(30)
    assert notes == ["made"]


def test_a_call_that_is_made_late() -> None:
    """The thread goes, and the reactor calls what follows after the call."""
    notes = Notes()
    call = AwaitedCall(notes.note("made"), notes.note("followed"))
    assert not call.wait(0)
    assert notes == []
    call.make()
    assert notes == ["made", "followed"]


def test_a_call_that_raises() -> None:
    """The thread continues, or what follows is called, all the same."""
    notes = Notes()

    def fail() -> None:
        raise ValueError

    late, in_time = (AwaitedCall(fail, notes.note("followed")) for _ in range(2))
    assert not late.wait(0)
    with pytest.raises(ValueError):
        late.make()
    assert notes == ["followed"]
    with pytest.raises(ValueError):
        in_time.make()
    assert in_time.wait(30)
    assert notes == ["followed"]


def test_each_call_is_followed_by_one_of_both() -> None:
    """Whoever comes first, the thread or the reactor, exactly one of both continues."""
    for _ in range(2000):
        notes = Notes()
        call = AwaitedCall(notes.note("made"), notes.note("followed"))
        reactor = threading.Thread(target=call.make)
        reactor.start()
        continued = call.wait(0.00001)
        reactor.join(30)
        assert notes == (["made"] if continued else ["made", "followed"])
