"""VirtualPath: what the client means by a name. Never a path on the disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ftpsd.protocol.replies import Refusal

#: Deeper or longer paths than these are refused: PATH_MAX of Linux, and a depth that recursion stands.
LONGEST = 4096
DEEPEST = 200


@dataclass(frozen=True, slots=True)
class VirtualPath:
    """An absolute path below the user's root, free of `.`, `..` and empty parts.

    Names are text; bytes that are not UTF-8 live in it as surrogates (PEP 383), so every name on
    the disk can be said and comes back unchanged.
    """

    parts: tuple[str, ...] = ()

    def join(self, name: str) -> VirtualPath:
        """What `name` means for a client whose directory this is. `..` never leaves the root."""
        if len(name) > LONGEST:
            raise Refusal(553, "Path too long.")
        parts = [] if name.startswith("/") else list(self.parts)
        for part in name.split("/"):
            if part == "..":
                del parts[-1:]
            elif part and part != ".":
                parts.append(part)
        if len(parts) > DEEPEST:
            raise Refusal(553, "Path too deep.")
        return VirtualPath(tuple(parts))

    def child(self, name: str) -> VirtualPath:
        """The entry `name` of this directory: one part, taken as it is."""
        return VirtualPath((*self.parts, name))

    @property
    def parent(self) -> VirtualPath:
        """The directory that holds this; the root is its own."""
        return VirtualPath(self.parts[:-1])

    @property
    def name(self) -> str:
        """The last part; empty for the root."""
        return self.parts[-1] if self.parts else ""

    def __str__(self) -> str:
        return "/" + "/".join(self.parts)

    def quoted(self) -> str:
        """As 257 replies have it: in double quotes, those within doubled (RFC 959 appendix II)."""
        return '"' + str(self).replace('"', '""') + '"'


def outermost(homes: Iterable[str]) -> list[str]:
    """Return directories without those that lie in others. Without one call that would take long for 100,000."""
    every = dict.fromkeys(homes)
    covered: dict[str, bool] = {}  # directories, and whether they or those above them are among the homes

    def is_covered(directory: str) -> bool:
        way = []
        while directory not in covered and directory:
            way.append(directory)
            directory = directory.rpartition("/")[0]
        above = covered.get(directory, "/" in every)
        for each in reversed(way):
            above = covered[each] = above or each in every
        return above

    return [home for home in every if home == "/" or not is_covered(home.rstrip("/").rpartition("/")[0])]
