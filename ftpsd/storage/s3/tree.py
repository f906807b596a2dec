"""The only way from a VirtualPath to a key: `Tree`. No path leads out of the prefix of its home or folder.

A directory `d` is what keys that begin with `d/` have in common. The daemon stores an empty object `d/`, the marker,
for one that it makes, so that it exists while it is empty. Names that a path cannot have (empty ones, `.` and `..`) do
not exist for clients.
"""

from __future__ import annotations

import errno
import os

from ftpsd.protocol.name_rules import NameRules
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import PERMITTED_ACTIONS, Parts
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import Mount
from ftpsd.storage.local.part_files import is_private

#: The most bytes in a key.
_LONGEST_KEY = 1024


class Tree:
    """The keys below one prefix, and the permissions of one user for them. Nothing blocks."""

    def __init__(self, mount: Mount, name_rules: NameRules, prefix: str) -> None:
        self._at = mount.at
        self._covered = mount.covered
        self.permissions = mount.permissions
        self._name_rules = name_rules
        #: What all keys begin with; empty, or it ends with a slash.
        self.prefix = prefix

    def below(self, parts: Parts) -> Parts:
        """Return the names of a path that follow those of the root."""
        return parts[len(self._at) :]

    def is_root(self, path: VirtualPath) -> bool:
        """Return whether a path is that of the home or folder itself."""
        return not self.below(path.parts)

    # --- keys --------------------------------------------------------------------------------------

    def key(self, path: VirtualPath) -> str:
        """Return the key of a file. Raises FileNotFoundError for a name that no listing shows."""
        parts = self.below(path.parts)
        for depth, name in enumerate(parts):
            if not self.shows(path.parts[: len(self._at) + depth], name):
                raise _error(errno.ENOENT)
        key = self.prefix + "/".join(parts)
        if not _is_valid(key):
            raise _error(errno.ENOENT)
        return key

    def new_key(self, path: VirtualPath) -> str:
        """Return the key of something that is to be created. Raises Refusal for a name that is not allowed."""
        parts = self.below(path.parts)
        if not self._name_rules.allowed(parts):
            raise Refusal(553, f"{path}: name not allowed.")
        if not _is_valid(self.prefix + "/".join(parts)):
            raise Refusal(
                553, "Name not allowed: names in an object store are UTF-8, and paths have 1,023 bytes at most."
            )
        return self.key(path)

    def directory(self, path: VirtualPath) -> str:
        """Return what all keys in a directory begin with."""
        return self.prefix if self.is_root(path) else self.key(path) + "/"

    def shows(self, directory: Parts, name: str) -> bool:
        """Return whether listings show a name in a directory: it can be in a path, and no rule or folder hides it."""
        if name in ("", ".", "..") or "\0" in name or "/" in name or is_private(name):
            return False
        hidden = self._name_rules.hidden
        return not (hidden is not None and hidden(name)) and name not in self._covered.get(directory, ())

    def may_see(self, directory: Parts, name: str) -> bool:
        """Return whether the user has any permission for a name that a listing shows."""
        rules = self.permissions
        return name not in rules.branches(directory) or bool(rules.at((*directory, name)))

    @property
    def hides_names(self) -> bool:
        """Whether there are rules for hidden names."""
        return self._name_rules.hidden is not None

    def hides(self, name: str) -> bool:
        """Return whether a rule hides a name."""
        hidden = self._name_rules.hidden
        return hidden is not None and hidden(name)

    # --- permissions -------------------------------------------------------------------------------

    def require(self, path: VirtualPath, *permissions: str) -> None:
        """Raise Refusal unless one of the permissions holds at a path."""
        if self.permissions.at(path.parts).isdisjoint(permissions):
            raise Refusal(550, f"{path}: no permission to {PERMITTED_ACTIONS[permissions[0]]}.")

    def require_throughout(self, path: VirtualPath, permission: str) -> None:
        """Raise Refusal unless a permission holds at a path and everywhere below it."""
        if not self.permissions.throughout(path.parts, permission):
            raise Refusal(550, f"{path}: no permission to {PERMITTED_ACTIONS[permission]} of its contents.")

    def require_changeable(self, path: VirtualPath) -> None:
        """Raise Refusal for the root, and for a directory that contains a folder."""
        if self.is_root(path):
            if self._at:
                raise Refusal(550, f"{path} is a folder of the server: it cannot be changed.")
            raise Refusal(550, "The root directory cannot be changed.")
        if any(parts[: len(path.parts)] == path.parts for parts in self._covered):
            raise Refusal(550, f"{path} contains a folder of the server: it cannot be changed.")


def _is_valid(key: str) -> bool:
    """Return whether a store takes a key: UTF-8, and one byte less than the limit, for the slash of a directory."""
    try:
        return len(key.encode()) < _LONGEST_KEY and "\0" not in key
    except UnicodeEncodeError:
        return False


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
