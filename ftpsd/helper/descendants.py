"""End a process together with the programs that it has started."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

#: The most processes that are ended with one. The service has no more tasks (TasksMax=).
_MOST = 256


def kill_tree(process: int) -> None:
    """Kill a child of this process and all its descendants, also those in sessions of their own (pam_exec).

    Each is stopped before its children are listed, so that it starts no more.
    """
    found: list[int] = []
    for each in _tree(process):
        found.append(each)
        if len(found) == _MOST:
            break
    for each in found:
        _send(each, signal.SIGKILL)


def _tree(process: int) -> Iterator[int]:
    waiting = [process]
    while waiting:
        found = waiting.pop()
        _send(found, signal.SIGSTOP)
        yield found
        waiting += _children(found)


def _children(process: int) -> list[int]:
    found: list[int] = []
    for path in Path("/proc", str(process), "task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:  # the thread or process has ended
            continue
    return found


def _send(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended, or a program runs as another user
