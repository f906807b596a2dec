"""`twistd`, with a window: `python -m benchmarks.soak.inside WINDOW …` is `twistd …` that tells what it holds.

On SIGUSR2 it writes one line of JSON to the file WINDOW: what the reactor waits for, and how many objects of each
type that a session is made of are alive. Nothing of the daemon is changed for it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
from collections import Counter
from typing import Any

from twisted.scripts.twistd import run

#: The modules whose objects live as long as a session, a transfer, or a command.
WATCHED = ("ftpsd.", "OpenSSL.SSL", "twisted.internet.tcp", "twisted.internet.defer")


class Window:
    """The file; opened before the daemon's sandbox closes."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._looks = 0

    def ask(self, *_: Any) -> None:
        """The signal: the reactor thread answers, between two events."""
        from twisted.internet import reactor

        reactor.callFromThread(self.tell, reactor)

    def tell(self, reactor: Any) -> None:
        """What is held now; garbage that waits for its collector is not."""
        gc.collect()
        self._looks += 1
        view = {
            "look": self._looks,
            "timers": Counter(_name(call.func) for call in reactor.getDelayedCalls()),
            "watched": len(reactor.getReaders()) + len(reactor.getWriters()),
            "objects": _objects(),
            "blocks": sys.getallocatedblocks(),
            "heap": _heap(),
        }
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(view).encode() + b"\n", 0)


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


class _Mallinfo(ctypes.Structure):
    """mallinfo(3)"""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()  # noqa: SIM905
    ]


def _heap() -> int:
    """Bytes that the C library has given out and not had back; 0 where it does not tell."""
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0
    ask.restype = _Mallinfo
    info = ask()
    return int(info.uordblks + info.hblkhd)


def _objects() -> Counter[str]:
    kinds = Counter(type(each) for each in gc.get_objects())
    names: Counter[str] = Counter()
    for kind, count in kinds.items():
        if str(kind.__module__).startswith(WATCHED) or kind.__name__ in ("coroutine", "socket"):
            names[f"{kind.__module__}.{kind.__qualname__}"] += count
    return names


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, Window(sys.argv.pop(1)).ask)
    run()
