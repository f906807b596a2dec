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
    """Return a time in its two largest units: `45 s`, `3 min`, `2 h 5 min`, `4 d 3 h`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    first, second = ("h", "min") if whole < 86_400 else ("d", "h")
    large, small = (3600, 60) if whole < 86_400 else (86_400, 3600)
    rest = whole % large // small
    return f"{whole // large} {first}" + (f" {rest} {second}" if rest else "")


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
