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
from unicodedata import category, normalize

#: What Unicode ignores beside the format characters: joiners of marks, fillers, variation selectors.
_UNSEEN = frozenset(map(chr, (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10))))

#: Whether a name fits.
Match = Callable[[str], bool]


def folded(name: str) -> str:
    """Return one spelling for all names that some disk takes for the same one.

    FAT, NTFS and CIFS ignore case, and dots and blanks at the end. ext4 with casefold also takes ß for ss, and
    ignores characters that do not show. HFS+ and APFS ignore how accents are composed.
    """
    return _alike(name).rstrip(". ") or name


def _alike(text: str) -> str:
    if text.isascii():
        return text.lower()
    text = normalize("NFD", text).casefold()
    return normalize("NFC", "".join(each for each in text if category(each) != "Cf" and each not in _UNSEEN))


def matcher(patterns: Sequence[str]) -> Match | None:
    """Whether a name fits one of the patterns; None for no patterns, so that they cost nothing.

    Names that a disk may take for the same one fit alike (see `folded`).
    """
    if not patterns:
        return None
    found = re.compile("|".join(translate(normalize("NFC", each)) for each in patterns), re.IGNORECASE).match
    wide = re.compile("|".join(translate(_alike(each)) for each in patterns)).match
    plain_patterns = all(map(str.isascii, patterns))

    def fits(name: str) -> bool:
        if plain_patterns and name.isascii():
            return bool(found(name) or found(name.rstrip(". ")))
        plain = normalize("NFC", name)
        return bool(found(plain) or found(plain.rstrip(". ")) or wide(_alike(name)) or wide(folded(name)))

    return fits


@dataclass(frozen=True, slots=True)
class NameRules:
    """The rules of one user."""

    denied: Match | None = None
    hidden: Match | None = None

    def allowed(self, parts: Iterable[str]) -> bool:
        """Whether all parts of a path may be given to something new."""
        rules = [match for match in (self.denied, self.hidden) if match is not None]
        return not (rules and any(match(part) for part in parts for match in rules))
