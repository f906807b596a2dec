"""Which names of users can be names of files in `users.d`."""

from __future__ import annotations

import unicodedata

SUFFIX = ".yaml"

#: The longest name of a file on Linux is 255 bytes.
_LONGEST = 255 - len(SUFFIX)


def problem(name: str) -> str | None:
    """Return why a user of this name cannot have a file; None if it can. The text continues “the name”."""
    if not name:
        return "is empty"
    if "/" in name:
        return "contains /, so it cannot be the name of a file"
    if name.startswith("."):
        return "starts with a dot, and files with such names are ignored"
    if name.startswith("-"):
        return "starts with -, and would be taken for an option"
    if not name.isprintable():
        return "contains a character that cannot be printed"
    if name != name.strip():
        return "starts or ends with a space"
    if len(name.encode()) > _LONGEST:
        return f"has more than {_LONGEST} bytes, so it cannot be the name of a file"
    return None


def folded(name: str) -> str:
    """Return what names have in common that differ only in case, or in the composition of accents."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
