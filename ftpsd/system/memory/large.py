"""Collections of 100,000 strings whose end does not stop the sessions: LargeSet, LargeList, free_in_thread.

To free so many in one step takes 10 to 20 ms. They are freed one by one instead, in a thread of its own, between whose
steps other threads run.
"""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable, Sized
from typing import TypeVar

T = TypeVar("T")

#: Collections with more elements are freed in a thread.
FEW = 5000


class LargeSet(set[T]):
    """A set that is freed in a thread."""

    def __del__(self) -> None:
        free_in_thread(self, self.pop)


class LargeList(list[T]):
    """A list that is freed in a thread."""

    def __del__(self) -> None:
        free_in_thread(self, self.pop)


def free_in_thread(collection: Sized, pop: Callable[[], object]) -> None:
    """Remove all elements of a collection that nobody else uses: in a thread if there are many.

    It may be called in a garbage collection, while this thread has a lock of `threading`. A thread of that module would
    wait for the lock.
    """
    if len(collection) > FEW and not sys.is_finalizing():
        _thread.start_new_thread(_pop_all, (collection, pop))


def _pop_all(collection: Sized, pop: Callable[[], object]) -> None:
    while collection:
        pop()
