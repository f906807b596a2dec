"""What a forked process must do at its begin and at its end."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Standard input, output and error.
_STANDARD = {0, 1, 2}


@contextmanager
def end_process() -> Iterator[None]:
    """End the process with this context, whatever happens in it, with exit status 0, or 1 after an exception.

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
