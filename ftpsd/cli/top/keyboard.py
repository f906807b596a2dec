"""Read single keys from the terminal."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from ftpsd.cli.top import view

#: What terminals send for keys that are not characters.
_SEQUENCES = {
    b"\x1b[A": view.UP,
    b"\x1bOA": view.UP,
    b"\x1b[B": view.DOWN,
    b"\x1bOB": view.DOWN,
    b"\x1b[5~": view.PAGE_UP,
    b"\x1b[6~": view.PAGE_DOWN,
    b"\r": view.ENTER,
    b"\n": view.ENTER,
    b"\x1b": view.ESCAPE,
    b"\x7f": view.BACKSPACE,
    b"\b": view.BACKSPACE,
}

_READ = 1024


class Keyboard:
    """The keys of the terminal; none if standard input is no terminal."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def wait(self, seconds: float) -> list[str]:
        """Return the keys that were pressed; an empty list if none was pressed for so many seconds."""
        if self._descriptor is None:
            time.sleep(seconds)
            return []
        if not select.select([self._descriptor], [], [], max(0, seconds))[0]:
            return []
        data = os.read(self._descriptor, _READ)
        if not data:  # the terminal is gone
            raise view.Quit
        return keys(data)


def keys(data: bytes) -> list[str]:
    """Return the keys that bytes from a terminal stand for. A sequence that is not known is left out."""
    found: list[str] = []
    while data:
        known = max((each for each in _SEQUENCES if data.startswith(each)), key=len, default=b"")
        if known and not (known == b"\x1b" and data[1:2] in (b"[", b"O")):
            found.append(_SEQUENCES[known])
            data = data[len(known) :]
        elif data[:1] == b"\x1b":
            data = _after_sequence(data)
        else:
            length = _character(data[0])
            found.append(data[:length].decode(errors="replace"))
            data = data[length:]
    return found


def _after_sequence(data: bytes) -> bytes:
    """Return what follows a control sequence: ESC [, parameters, and one final character."""
    position = 2
    while position < len(data) and not 0x40 <= data[position] <= 0x7E:
        position += 1
    return data[position + 1 :]


def _character(first: int) -> int:
    """Return the length of a UTF-8 character by its first byte."""
    return 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


@contextmanager
def keyboard() -> Iterator[Keyboard]:
    """Let keys arrive one by one and unseen, until the block ends."""
    if not sys.stdin.isatty():
        yield Keyboard(None)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor, termios.TCSANOW)
    try:
        yield Keyboard(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
