"""Keep full garbage collections away from sessions: they stop all threads while they look at every object.

What a daemon keeps until it ends takes 20 ms, and the values of a file with 100,000 users up to 0.2 s.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: More collections of the younger generations than any process makes.
_NEVER = 2**31 - 1

_lock = threading.Lock()
#: How many blocks of `no_full_collections` run, and the thresholds outside of them.
_blocks = 0
_usual = gc.get_threshold()


def keep_all() -> None:
    """Collect all garbage, and let no later collection look at what is left. Call this before sessions begin."""
    gc.collect()
    gc.freeze()


@contextmanager
def no_full_collections() -> Iterator[None]:
    """Collect only young objects while the block runs, in all threads. Blocks may run at the same time."""
    global _blocks, _usual
    with _lock:
        if not _blocks:
            _usual = gc.get_threshold()
            gc.set_threshold(*_usual[:2], _NEVER)
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks:
                gc.set_threshold(*_usual)
