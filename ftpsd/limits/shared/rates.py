"""The state of a rate limit that processes share: SharedRateState."""

from __future__ import annotations

from contextlib import AbstractContextManager
from threading import get_ident
from types import TracebackType

from ftpsd.limits.shared.locks import TableBusy
from ftpsd.limits.shared.slot import Slot

#: The field of a slot with the time that is due, and the column with the transfers.
_DUE, _TRANSFERS = 0, 0


class _Tolerant(AbstractContextManager[object]):
    """A lock that is not waited for any longer when a process that was stopped holds it.

    A lost charge does less harm than transfers that fail.
    """

    def __init__(self, lock: AbstractContextManager[object]) -> None:
        self._lock = lock
        #: The thread that holds the lock.
        self._holder = 0

    def __enter__(self) -> None:
        try:
            self._lock.__enter__()
        except TableBusy:
            return
        self._holder = get_ident()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._holder == get_ident():
            self._holder = 0
            self._lock.__exit__(kind, error, trace)


class SharedRateState:
    """A rate limit in a slot of the table: see `token_bucket.RateState`. A new slot is due since long ago."""

    def __init__(self, slot: Slot) -> None:
        self.lock: AbstractContextManager[object] = _Tolerant(slot.lock())
        self._slot = slot

    @property
    def due(self) -> float:
        """The time at which all bytes that were charged have had their time."""
        due: float = self._slot.floats[_DUE]
        return due

    @due.setter
    def due(self, due: float) -> None:
        self._slot.floats[_DUE] = due

    def transfers(self) -> int:
        """Return how many transfers of all processes share the rate limit."""
        return self._slot.total(_TRANSFERS)

    def add_transfers(self, difference: int) -> None:
        """Add transfers of this process, or remove them."""
        self._slot.add(_TRANSFERS, difference)
