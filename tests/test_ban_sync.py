"""The states of the copy of the ban list in the state file."""

from __future__ import annotations

import pytest

from ftpsd.limits.bans.sync_state import RETRY, Event, Sync, SyncState

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], Sync.UNREAD),
        ([Event.FAILED, Event.CLOCK_SET, Event.CLOSED], Sync.UNREAD),
        ([Event.READ], Sync.BEHIND),
        ([Event.READ, Event.FAILED, Event.CLOCK_SET], Sync.BEHIND),
        ([Event.READ, Event.STORED], Sync.CURRENT),
        ([Event.READ, Event.STORED, Event.FAILED], Sync.BEHIND),
        ([Event.READ, Event.STORED, Event.CLOCK_SET], Sync.BEHIND),
        ([Event.READ, Event.STORED, Event.CLOSED], Sync.UNREAD),
        ([Event.READ, Event.CLOSED, Event.STORED], Sync.UNREAD),
    ],
)
def test_the_copy_is_stored_only_after_it_was_read(events: list[Event], state: Sync) -> None:
    """Rows of a file that was not read are never overwritten; a change that was not stored leads to a complete copy."""
    sync = SyncState()
    for event in events:
        sync.happened(event)
    assert sync.state is state


def test_attempts_are_repeated_after_a_while() -> None:
    """After an attempt the next one waits for `RETRY` seconds, or for the clock to be set."""
    sync = SyncState()
    assert sync.try_now(100)
    assert not sync.try_now(100 + RETRY - 0.1)
    assert sync.try_now(100 + RETRY)
    sync.happened(Event.CLOCK_SET)
    assert sync.try_now(100 + RETRY)
