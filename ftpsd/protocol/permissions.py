"""The permissions of a user: a set for each path. The set of the deepest path that contains a file applies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ftpsd.protocol.name_rules import folded

#: The parts of a virtual path.
Parts = tuple[str, ...]

#: What each permission allows, as a refusal words it: "no permission to …".
PERMITTED_ACTIONS = {
    "list": "list",
    "download": "download",
    "upload": "upload",
    "overwrite": "overwrite files",
    "append": "append",
    "delete": "delete files",
    "rename": "rename",
    "mkdir": "make directories",
    "rmdir": "remove directories",
    "times": "change times",
    "chmod": "change modes",
}

PERMISSIONS = tuple(PERMITTED_ACTIONS)

PROFILES: dict[str, frozenset[str]] = {
    "read-only": frozenset({"list", "download"}),
    "read-write": frozenset(PERMISSIONS),
    "upload-only": frozenset({"upload"}),
}


@dataclass(frozen=True, slots=True)
class Permissions:
    """The permissions of one user: those of `paths`, and `everywhere` for all other paths."""

    everywhere: frozenset[str]
    paths: Mapping[Parts, frozenset[str]] = field(default_factory=dict)
    #: The permissions by folded path. Of several paths that fold to the same, what all of them permit.
    _folded: dict[Parts, frozenset[str]] = field(init=False, repr=False, compare=False, default_factory=dict)
    #: The names in a directory that are in `paths`, or lead to a path there.
    _branches: dict[Parts, frozenset[str]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for path, permissions in self.paths.items():
            key = _fold(path)
            self._folded[key] = self._folded.get(key, permissions) & permissions
            for depth, name in enumerate(path):
                self._branches[path[:depth]] = self._branches.get(path[:depth], frozenset()) | {name}

    def at(self, parts: Parts) -> frozenset[str]:
        """Return the permissions at a path whose spelling is that of the configuration."""
        return _nearest(self.paths, parts, self.everywhere) if self.paths else self.everywhere

    def strictly(self, parts: Parts) -> frozenset[str]:
        """Return what is permitted at a path whether or not the disk ignores case and how accents are composed."""
        return self.at(parts) & _nearest(self._folded, _fold(parts), self.everywhere) if self.paths else self.everywhere

    def possibly(self, parts: Parts) -> frozenset[str]:
        """Return what may be permitted at a path, which depends on whether the disk ignores case."""
        return self.at(parts) | _nearest(self._folded, _fold(parts), self.everywhere) if self.paths else self.everywhere

    def branches(self, parts: Parts) -> frozenset[str]:
        """Return the names in a directory that have permissions of their own, or have such names below them."""
        return self._branches.get(parts, frozenset())

    def throughout(self, parts: Parts, permission: str, strictly: bool = False) -> bool:
        """Return whether a permission holds at a path and at all paths below it."""
        here, rules = (self.strictly(parts), self._folded) if strictly else (self.at(parts), self.paths)
        top = _fold(parts) if strictly else parts
        return permission in here and all(
            permission in permissions for path, permissions in rules.items() if path[: len(top)] == top
        )


def mounted(
    paths: Mapping[Parts, frozenset[str]], folders: Mapping[Parts, frozenset[str]]
) -> dict[Parts, frozenset[str]]:
    """Return the rules of a user for paths with those of folders: at and below a folder, they can only take away."""
    rules = {path: permissions & _nearest(folders, path, permissions) for path, permissions in paths.items()}
    return {**folders, **rules}


def _fold(parts: Parts) -> Parts:
    return tuple(map(folded, parts))


def _nearest(rules: Mapping[Parts, frozenset[str]], parts: Parts, otherwise: frozenset[str]) -> frozenset[str]:
    for depth in range(len(parts), -1, -1):
        if (found := rules.get(parts[:depth])) is not None:
            return found
    return otherwise
