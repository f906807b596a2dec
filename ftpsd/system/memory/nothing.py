"""What an object calls instead of the functions that it was given, when whatever gave them has ended.

The functions of a session refer to the session: an object that keeps them beyond its end would keep all of it, until a
garbage collection.
"""

from __future__ import annotations


def do_nothing(*_: object) -> None:
    """Do nothing."""


def never(*_: object) -> bool:
    """Return False."""
    return False
