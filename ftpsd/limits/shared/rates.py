"""The state of a rate limit that processes share: SharedRateState."""

from __future__ import annotations

from contextlib import AbstractContextManager

from ftpsd.limits.shared.locks import TolerantLock
from ftpsd.limits.shared.slot import Slot

#: The fields of a slot with the time that is due, and with the bytes of the transfer that is furthest ahead; and the
#: column with the transfers.
_DUE, _LEAD, _TRANSFERS = 0, 1, 0


class SharedRateState:
    """A rate limit in a slot of the table: see `token_bucket.RateState`. A new slot is due since long ago.

    It does without its lock if a process that was stopped holds that: a lost charge does less harm than transfers that
    fail.
    """

    def __init__(self, slot: Slot) -> None:
        self.lock: AbstractContextManager[object] = TolerantLock(slot.lock())
        self._slot = slot

    @property
    def due(self) -> float:
        """The time until which the bytes that were charged use up the rate."""
        due: float = self._slot.floats[_DUE]
        return due

    @due.setter
    def due(self, due: float) -> None:
        self._slot.floats[_DUE] = due

    @property
    def lead(self) -> float:
        """The bytes that the transfer that is furthest ahead has moved."""
        lead: float = self._slot.floats[_LEAD]
        return lead

    @lead.setter
    def lead(self, lead: float) -> None:
        self._slot.floats[_LEAD] = lead

    def transfers(self) -> int:
        """Return how many transfers of all processes share the rate limit."""
        return self._slot.total(_TRANSFERS)

    def add_transfers(self, difference: int) -> None:
        """Add transfers of this process, or remove them."""
        self._slot.add(_TRANSFERS, difference)
