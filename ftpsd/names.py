"""Names that a user may not give, and names that a user does not see. Patterns are those of the shell.

Denied names are for what must not come into being (`*.exe`, `.htaccess`): nothing is uploaded, made or
renamed under one of them, nor below a directory that has one. What is there already can be listed, read
and deleted: the administrator has put it there, or somebody has to clean up.

A hidden name is not there: not listed, not found by any command, and not to be given either, since
whoever cannot see a file must not replace it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from unicodedata import normalize

#: Whether a name fits.
Match = Callable[[str], bool]


def matcher(patterns: Sequence[str]) -> Match | None:
    """Whether a name fits one of the patterns; None for no patterns, so that they cost nothing.

    Capitals count for nothing, nor do dots and blanks at the end: FAT and Windows do not tell such names apart. How
    accents are composed counts for nothing either: Apple's file systems write é as two characters.
    """
    if not patterns:
        return None
    found = re.compile("|".join(translate(normalize("NFC", each)) for each in patterns), re.IGNORECASE).match

    def fits(name: str) -> bool:
        plain = name if name.isascii() else normalize("NFC", name)
        return bool(found(plain) or found(plain.rstrip(". ")))

    return fits


@dataclass(frozen=True, slots=True)
class Names:
    """The rules of one user."""

    denied: Match | None = None
    hidden: Match | None = None

    def allowed(self, parts: Iterable[str]) -> bool:
        """Whether all parts of a path may be given to something new."""
        rules = [match for match in (self.denied, self.hidden) if match is not None]
        return not (rules and any(match(part) for part in parts for match in rules))
