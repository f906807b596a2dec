"""What a user may do, and where: permissions per path, the deeper path wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PERMISSIONS = (
    "list",
    "download",
    "upload",
    "overwrite",
    "append",
    "delete",
    "rename",
    "mkdir",
    "rmdir",
    "times",
    "chmod",
)

PROFILES: dict[str, frozenset[str]] = {
    "read-only": frozenset({"list", "download"}),
    "read-write": frozenset(PERMISSIONS),
    "upload-only": frozenset({"upload"}),
}


@dataclass(frozen=True, slots=True)
class Rights:
    """The permissions of one user.

    `everywhere` holds where no entry of `paths` is nearer; the keys of `paths` are the parts of
    virtual paths.
    """

    everywhere: frozenset[str]
    paths: Mapping[tuple[str, ...], frozenset[str]] = field(default_factory=dict)

    def at(self, parts: tuple[str, ...]) -> frozenset[str]:
        """The permissions that hold at a virtual path, given by its parts."""
        if self.paths:
            for depth in range(len(parts), -1, -1):
                if (found := self.paths.get(parts[:depth])) is not None:
                    return found
        return self.everywhere

    def throughout(self, parts: tuple[str, ...], permission: str) -> bool:
        """Whether a permission holds at a path and at every path below it."""
        return permission in self.at(parts) and all(
            permission in permissions for place, permissions in self.paths.items() if place[: len(parts)] == parts
        )
