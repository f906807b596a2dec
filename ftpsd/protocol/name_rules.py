"""Names that a user may not create, and names that a user does not see. Patterns are those of the shell.

Denied names (`*.exe`, `.htaccess`) cannot be created: no upload, new directory or new name may match, nor may any
directory above it. Existing files with such names can be listed, read and deleted, because the administrator may have
put them there, or somebody must be able to clean up.

Hidden names do not exist for the user: they are not listed, no command finds them, and they cannot be created, because
a user must not replace a file without seeing it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from unicodedata import category, normalize

#: Characters that Unicode ignores (Default_Ignorable_Code_Point), besides its format characters: joiners, fillers,
#: variation selectors, and code points that have no character yet.
_UNSEEN = frozenset(
    map(
        chr,
        (
            *(0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x2065, 0x3164, 0xFFA0),
            *range(0xFE00, 0xFE10),
            *range(0xFFF0, 0xFFF9),
            *range(0xE0000, 0xE1000),
        ),
    )
)

#: The most characters of a name on a disk that takes different names for the same. Unicode's normal forms of long texts
#: take long: the time grows with the square of the length.
_LONGEST = 255

#: Returns whether a name matches.
Match = Callable[[str], bool]


def folded(name: str) -> str:
    """Return the same spelling for all names that some file system takes for the same name.

    FAT, NTFS and CIFS ignore case, and dots and spaces at the end. ext4 with casefold also takes ß for ss, and ignores
    invisible characters. ZFS compares capitals, and the capital of ı is I. HFS+ and APFS ignore how accents are
    composed. All of these have names of 255 characters at most, so a longer one stays as it is, apart from the dots and
    spaces.
    """
    return _alike(name).rstrip(". ") or name


def _alike(text: str) -> str:
    if text.isascii():
        return text.lower()
    if _is_too_long(text):
        return text
    text = normalize("NFD", text).upper().casefold()
    return normalize("NFC", "".join(each for each in text if category(each) != "Cf" and each not in _UNSEEN))


def _is_too_long(name: str) -> bool:
    """Return whether a name is too long for every disk that takes different names for the same."""
    return len(name) > _LONGEST and len(name.rstrip(". ")) > _LONGEST


def matcher(patterns: Sequence[str]) -> Match | None:
    """Return a function that matches a name with the patterns, or None if there are no patterns.

    Names that a file system may take for the same name match alike (see `folded`).
    """
    if not patterns:
        return None
    found = re.compile("|".join(translate(normalize("NFC", each)) for each in patterns), re.IGNORECASE).match
    wide = re.compile("|".join(translate(_alike(each)) for each in patterns)).match
    plain_patterns = all(map(str.isascii, patterns))

    def fits(name: str) -> bool:
        if (plain_patterns and name.isascii()) or _is_too_long(name):
            return bool(found(name) or found(name.rstrip(". ")))
        plain = normalize("NFC", name)
        return bool(found(plain) or found(plain.rstrip(". ")) or wide(_alike(name)) or wide(folded(name)))

    return fits


@dataclass(frozen=True, slots=True)
class NameRules:
    """The rules of one user for names."""

    denied: Match | None = None
    hidden: Match | None = None

    def allowed(self, parts: Iterable[str]) -> bool:
        """Return whether something new may have a path with these parts."""
        rules = [match for match in (self.denied, self.hidden) if match is not None]
        return not (rules and any(match(part) for part in parts for match in rules))
