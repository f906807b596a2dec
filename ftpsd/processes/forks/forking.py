"""What a forked process must do at its start and at its end."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Standard input, output and error.
_STANDARD = {0, 1, 2}


#: Seconds to wait for threads that end, and between two looks at them.
_ENDING = 5.0
_PAUSE = 0.001


def fork_alone() -> int:
    """Fork this process when all threads have ended that Python regards as ended. Return what fork(2) returns.

    Until release 3.13, Python regards a thread as ended shortly before the kernel does. OpenSSL then frees what it has
    for the thread, under a lock. A process that is forked meanwhile inherits the lock, and waits for it forever: on a
    busy machine one in some hundred did so, as soon as it loaded a certificate.
    """
    limit = time.monotonic() + _ENDING
    while _threads() > threading.active_count() and time.monotonic() < limit:
        time.sleep(_PAUSE)
    return os.fork()


def _threads() -> int:
    """Return the number of threads of this process. This needs no descriptor: a directory has a link for each entry."""
    return os.stat("/proc/self/task").st_nlink - 2


@contextmanager
def end_process() -> Iterator[None]:
    """End the process when the body ends: with exit status 0, or with 1 after an exception.

    A forked process must not return: what its parent does at its own end would happen twice.
    """
    status = 1
    try:
        yield
        status = 0
    except BaseException:
        # Not to the log, whose lines the link sends later: this process ends now.
        text = f"internal error: a process of the daemon ends\n{traceback.format_exc()}"
        print(text, file=sys.__stderr__, flush=True)
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def close_inherited(kept: Collection[int]) -> None:
    """Close all descriptors that were inherited, except the standard ones and `kept`.

    /dev/null takes the place of each: an object of the parent still has the number, and would close whatever gets it.
    """
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in _STANDARD and number not in kept and number != nothing and _is_open(number):
            os.dup2(nothing, number, inheritable=False)
    os.close(nothing)


def _is_open(number: int) -> bool:
    """Return whether a descriptor is open. The one that has listed them is not."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def name_process(name: str) -> None:
    """Give the process a name in the lists of ps(1) and top(1)."""
    try:
        Path("/proc/self/comm").write_text(name)
    except OSError:
        pass  # /proc is not mounted
