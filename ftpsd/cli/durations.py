"""Times on the command line and on the screen: `10m`, `1h`, `2d`."""

from __future__ import annotations

import argparse
import re

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}

#: A longer time is a mistake, or is meant to last for ever.
LONGEST_DAYS = 3650


def parse_duration(text: str) -> int:
    """Return the seconds in `90`, `90s`, `10m`, `1h` or `2d`. Raises ArgumentTypeError."""
    found = re.fullmatch(r"([0-9]{1,12})([smhd]?)", text.strip().lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write seconds, or for example 10m, 1h or 2d")
    seconds = int(found[1]) * _UNITS[found[2]]
    if not 1 <= seconds <= LONGEST_DAYS * 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is out of range: from 1 second to {LONGEST_DAYS}d")
    return seconds


def in_words(seconds: float) -> str:
    """Return a time in its two largest units: `45 s`, `1 min 30 s`, `2 h 5 min`, `4 d`."""
    left = max(0, int(seconds))
    words: list[str] = []
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, length)
        if words or count or length == 1:
            words.append(f"{count} {unit}" if count or not words else "")
    return " ".join(filter(None, words[:2]))


def short(seconds: float) -> str:
    """Return a time in at most five characters: `45s`, `12m`, `3h05`, `4d`, `120d`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}"
    return f"{whole // 86_400}d"
