"""VirtualPath: a path as clients see it. It is never a path on the disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ftpsd.protocol.replies import Refusal

#: The limits of a path, in characters (PATH_MAX of Linux) and in directories (recursive functions must not overflow).
MAX_LENGTH = 4096
MAX_DEPTH = 200


@dataclass(frozen=True, slots=True)
class VirtualPath:
    """An absolute path below the user's root, without `.`, `..` and empty parts.

    Names are text. Bytes that are not UTF-8 are represented by surrogates (PEP 383), so each name on the disk can be
    used, and is sent back unchanged.
    """

    parts: tuple[str, ...] = ()

    def join(self, name: str) -> VirtualPath:
        """Return the path that `name` means in this directory. `..` stays in the root. Raises Refusal."""
        if len(name) > MAX_LENGTH:
            raise Refusal(553, "Path too long.")
        parts = [] if name.startswith("/") else list(self.parts)
        for part in name.split("/"):
            if part == "..":
                del parts[-1:]
            elif part and part != ".":
                parts.append(part)
        if len(parts) > MAX_DEPTH:
            raise Refusal(553, "Path too deep.")
        return VirtualPath(tuple(parts))

    def child(self, name: str) -> VirtualPath:
        """Return the path of the entry `name` in this directory."""
        return VirtualPath((*self.parts, name))

    @property
    def parent(self) -> VirtualPath:
        """The directory that contains this path; for the root, the root."""
        return VirtualPath(self.parts[:-1])

    @property
    def name(self) -> str:
        """The last part; empty for the root."""
        return self.parts[-1] if self.parts else ""

    def __str__(self) -> str:
        return "/" + "/".join(self.parts)

    def quoted(self) -> str:
        """Return the path for a 257 reply: in double quotes, with each quote in it doubled (RFC 959 appendix II)."""
        return '"' + str(self).replace('"', '""') + '"'


def outermost(homes: Iterable[str]) -> list[str]:
    """Return the directories that lie in no other one of them. Takes linear time: there may be 100,000."""
    every: dict[str, None] = {}
    for home in homes:  # one by one: dict.fromkeys would stop all other threads for 20 ms
        every[home] = None
    covered: dict[str, bool] = {}  # by directory: whether it or a directory above it is one of the homes

    def is_covered(directory: str) -> bool:
        path = []
        while directory not in covered and directory:
            path.append(directory)
            directory = directory.rpartition("/")[0]
        above = covered.get(directory, "/" in every)
        for each in reversed(path):
            above = covered[each] = above or each in every
        return above

    return [home for home in every if home == "/" or not is_covered(home.rstrip("/").rpartition("/")[0])]


def with_ancestors(directories: Iterable[str]) -> set[str]:
    """Return directories and all that contain them, except for /. Takes linear time: there may be 100,000."""
    found: set[str] = set()
    for each in directories:
        while each and each not in found:
            found.add(each)
            each = each.rpartition("/")[0]
    return found
