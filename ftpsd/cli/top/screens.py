"""Show frames on a terminal, with rich or with a few control sequences, or one after the other as plain text."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from ftpsd.cli.top.frame import Line


class Screen(Protocol):
    """Where frames are shown."""

    #: What the user should know about this screen; empty if nothing.
    hint: str

    def show(self, lines: Sequence[Line]) -> None:
        """Show a frame in place of the last one."""


def plain(line: Line) -> str:
    """Return a line without styles."""
    return "".join(content for content, _ in line).rstrip()


class Batch:
    """Frames one after the other, with an empty line between two."""

    hint = ""

    def __init__(self) -> None:
        self._first = True

    def show(self, lines: Sequence[Line]) -> None:
        """Print a frame."""
        print("\n" * (not self._first) + "\n".join(map(plain, lines)), flush=True)
        self._first = False


class Plain:
    """The terminal, where rich is not installed."""

    hint = "Plain text: for colours, install python3-rich (pip: ftpsd[top])."

    def show(self, lines: Sequence[Line]) -> None:
        """Overwrite the last frame, line by line, so that nothing flickers."""
        height = shutil.get_terminal_size().lines
        shown = "\x1b[K\r\n".join(map(plain, lines[:height]))
        sys.stdout.write(f"\x1b[H{shown}\x1b[K\x1b[J")
        sys.stdout.flush()


@contextmanager
def terminal() -> Iterator[Screen]:
    """Use the terminal's second screen, and leave it when the block ends."""
    try:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text
    except ImportError:
        sys.stdout.write("\x1b[?1049h\x1b[?25l")
        try:
            yield Plain()
        finally:
            sys.stdout.write("\x1b[?1049l\x1b[?25h")
            sys.stdout.flush()
        return

    class Rich:
        """The terminal, with colours if it has any."""

        hint = ""

        def show(self, lines: Sequence[Line]) -> None:
            """Overwrite the last frame."""
            joined = Text("\n", no_wrap=True, overflow="crop").join(Text.assemble(*line) for line in lines)
            live.update(joined, refresh=True)

    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        yield Rich()
