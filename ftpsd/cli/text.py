"""Lines for a terminal: texts of clients made printable, columns, sizes. A wide character (CJK) takes two cells."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from ftpsd.protocol.printable import printable

_UNITS = "BKMGTP"


def clean(text: object) -> str:
    """Return any text on one line, without characters that control a terminal."""
    return printable(str(text), 2000)


def cells(text: str) -> int:
    """Return how many cells of a terminal a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):  # combined with the character before
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def head(text: str, most: int) -> str:
    """Return the start of a text in at most `most` cells, with an ellipsis if anything is missing."""
    if cells(text) <= most:
        return text
    return _first(text, most - 1) + "…" if most > 0 else ""


def tail(text: str, most: int) -> str:
    """Return the end of a text, such as the name of a file, in at most `most` cells."""
    if cells(text) <= most:
        return text
    return "…" + _first(text[::-1], most - 1)[::-1] if most > 0 else ""


def _first(text: str, most: int) -> str:
    length = 0
    for position, character in enumerate(text):
        length += _cells(character)
        if length > most:
            return text[:position]
    return text


def pad(text: str, width: int, right: bool = False) -> str:
    """Return a text in `width` cells, to the left or to the right."""
    blank = " " * (width - cells(text))
    return blank + text if right else text + blank


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of the same length as lines, each column as wide as its widest text."""
    widths = [max(map(cells, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(pad, row, widths)).rstrip() for row in rows]


def short_size(count: float) -> str:
    """Return a number of bytes in at most five characters: `512B`, `1.5K`, `20M`."""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.1f}{_UNITS[unit]}" if unit and count < 9.95 else f"{count:.0f}{_UNITS[unit]}"
