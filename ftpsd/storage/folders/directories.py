"""Read directories across mounts, for listings. Everything here blocks."""

from __future__ import annotations

import errno
import stat
import zlib
from collections.abc import Generator, Iterator

from ftpsd.protocol.listing import Entry
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import PERMISSIONS, PERMITTED_ACTIONS, Permissions
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import IsTimed, entry_or_portions, every_name
from ftpsd.storage.folders.mounts import MountTable

#: Errors for a directory that leads to a folder, but does not exist in the mount around it.
MISSING = (FileNotFoundError, NotADirectoryError)


class FolderDirectories:
    """The directories of all mounts. Those that lead to a folder need not exist: then they contain that alone.

    `rules` are the permissions in the whole tree, `modified` is the time of directories that do not exist.
    """

    def __init__(self, table: MountTable, rules: Permissions, modified: float) -> None:
        self._table = table
        self._rules = rules
        self._modified = modified

    def entry(self, path: VirtualPath, *permissions: str) -> Entry:
        """Return the facts of a name at which one of the permissions holds."""
        found = self._table.files(path.parts).directories
        if not self._table.names_in(path.parts) or self._table.is_folder(path.parts):
            return found.entry(path, *permissions)
        try:
            if (real := found.entry(path, *permissions)).is_directory:
                return real
        except (OSError, Refusal) as error:
            _require_no_directory(error)
        self._require(path, *permissions)
        return self._virtual(path)

    def portions(
        self, path: VirtualPath, with_dots: bool, is_timed: IsTimed = every_name
    ) -> Generator[list[Entry], None, None]:
        """Yield the entries of a directory in portions, in no order."""
        names = self._table.names_in(path.parts)
        portions = self._table.files(path.parts).directories.portions(path, with_dots, is_timed)
        try:
            first = next(portions, [])
        except (OSError, Refusal) as error:
            if not names or self._table.is_folder(path.parts):
                raise
            _require_no_directory(error)
            self._require(path, "list")
            here = self._virtual(path)
            first = [here._replace(name="."), here._replace(name="..")] if with_dots else []
        yield [each for each in first if each.name not in names]
        yield self._folders_in(path, names)
        for portion in portions:
            yield [each for each in portion if each.name not in names]

    def listed(
        self, path: VirtualPath, with_dots: bool, is_timed: IsTimed = every_name
    ) -> Generator[list[Entry], None, None] | Entry:
        """Return the portions of a directory, or the entry of what is none."""
        if self._table.names_in(path.parts):
            return entry_or_portions(self, path, with_dots, is_timed)
        return self._table.files(path.parts).directories.listed(path, with_dots, is_timed)

    def are_in_order(self, path: VirtualPath) -> bool:
        """Return whether the portions of a directory follow each other in the order of the names."""
        return self._table.files(path.parts).directories.are_in_order(path)

    def names_below(self, path: VirtualPath) -> Iterator[list[str]]:
        """Yield the names of the directories in a directory, in no order."""
        names = self._table.names_in(path.parts)
        yield [each.name for each in self._folders_in(path, names)]
        for portion in self._table.files(path.parts).directories.names_below(path):
            yield [name for name in portion if name not in names]

    def _folders_in(self, path: VirtualPath, names: frozenset[str]) -> list[Entry]:
        """Return the folders in a directory, and what leads to some. One that is not available is listed, too."""
        found = []
        for name in names:
            child = path.child(name)
            if self._rules.at(child.parts):
                try:
                    found.append(self.entry(child, *PERMISSIONS)._replace(name=name))
                except (OSError, Refusal):
                    found.append(self._virtual(child))
        return found

    def _require(self, path: VirtualPath, *permissions: str) -> None:
        if self._rules.at(path.parts).isdisjoint(permissions):
            raise Refusal(550, f"{path}: no permission to {PERMITTED_ACTIONS[permissions[0]]}.")

    def _virtual(self, path: VirtualPath) -> Entry:
        identity = zlib.crc32(str(path).encode("utf-8", "surrogateescape"))
        return Entry(path.name, stat.S_IFDIR | 0o555, 0, self._modified, 0, identity, 2)


def _require_no_directory(error: OSError | Refusal) -> None:
    """Raise an error unless it says that a directory does not exist, or that a link in its place leads to none.

    A Refusal is that of a link which leads out of the mount, or of a permission, which `_require` checks again.
    """
    if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        raise error
