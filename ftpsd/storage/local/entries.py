"""The facts of names, as one user may see them, for listings and other commands. Everything here blocks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress

from ftpsd.protocol.listing import Entry
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import Parts
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.local.jail import Jail, Place, is_covered
from ftpsd.storage.local.part_files import is_private, part_name, resumable_entry
from ftpsd.storage.local.tree import Identity, identity

#: Errors of following a link that leads to nothing.
_BROKEN_LINK = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

#: Permissions that let a user see size and time of a file.
_SEEING = frozenset({"list", "download"})


class Entries:
    """Reads entries below one root."""

    def __init__(self, jail: Jail) -> None:
        self._jail = jail
        self._permissions = jail.permission_rules
        self._hidden = jail.name_rules.hidden
        self._covered = jail.covered

    def entry(self, path: VirtualPath, *permissions: str) -> Entry:
        """Return the facts of a path at which one of the permissions holds.

        For a link they are those of its target. They are those of the link itself if it is broken, leads out of the
        root, or leads to a place where none of the permissions holds.
        """
        try:
            with self._jail.place(path, None) as place:
                self._jail.require_any(place, *permissions)
                return make_entry(path.name, place.first_stat())
        except (OSError, Refusal) as error:
            if isinstance(error, OSError) and error.errno not in _BROKEN_LINK:
                raise
            with self._jail.place(path, None, follow=False) as place:
                if isinstance(error, FileNotFoundError) and (cut := self.incomplete(place)) is not None:
                    return cut
                found = place.stat()
                if not stat.S_ISLNK(found.st_mode):
                    raise
                return make_entry(path.name, found)

    def require_directory(self, path: VirtualPath) -> None:
        """Return if the path is a directory in which the user has any permission."""
        with self._jail.place(path, None) as place:
            if not self._jail.permissions(place):
                raise Refusal(550, f"{VirtualPath(place.parts)}: no permission.")
            os.close(place.open_directory())

    def scan(
        self, path: VirtualPath, place: Place, directory: int, found: Iterable[os.DirEntry[str]]
    ) -> Iterator[Entry]:
        """Yield the entries that the user may see of names that were found in a directory.

        `path` is the directory as the client named it, `place` is where that has led.
        """
        parts = place.parts
        ruled, hidden = self._ruled_names(parts, directory), self._hidden
        covered = [self._covered[each] for each in {place.way, path.parts} if each in self._covered]
        for item in found:
            name = item.name
            # `is_private` begins with the same two tests. Each call for each name is 2 % of the time of a listing.
            if (name[0] == "." or not name.isascii()) and is_private(name):
                cut = self._incomplete(parts, directory, name)
                if cut is not None and not any(is_covered(each, directory, cut.name) for each in covered):
                    yield cut
                continue
            if hidden is not None and hidden(name):
                continue
            if covered and any(is_covered(each, directory, name) for each in covered):
                continue
            try:
                info = item.stat(follow_symlinks=False)
            except (FileNotFoundError, PermissionError):
                continue  # it went away meanwhile, or only the names may be read here
            except OSError:
                # An incomplete listing with a 226 makes programs that mirror delete what it lacks.
                if not item.is_dir(follow_symlinks=False):
                    raise
                if self._permissions.at((*parts, name)):
                    yield Entry(name, stat.S_IFDIR, 0, 0.0, 0, 0, 2)  # a disk is mounted there that does not work
                continue
            if ruled and not self._permissions.at((*parts, ruled.get(identity(info), name))):
                continue
            entry = make_entry(name, info)
            yield self._link_entry(path.child(name), directory, info) if entry.is_link else entry

    def _ruled_names(self, parts: Parts, directory: int) -> dict[Identity, str]:
        """Return the files of a directory that permission rules name, with these names: the disk may spell them
        differently."""
        found = {}
        for name in self._permissions.branches(parts):
            with suppress(OSError):
                found[identity(os.stat(name, dir_fd=directory, follow_symlinks=False))] = name
        return found

    def incomplete(self, place: Place) -> Entry | None:
        """Return the entry of an upload that was cut, if nothing else has the name and the user may resume it."""
        if "upload" not in self._jail.permissions(place):
            return None
        return self._incomplete(place.parts[:-1], place.directory, part_name(place.name))

    def _incomplete(self, parts: tuple[str, ...], directory: int, part: str) -> Entry | None:
        """Return the entry of an upload that was cut, if the user may resume it.

        FileZilla resumes only what it has seen in a listing. Other users see complete files only.
        """
        found = resumable_entry(directory, part)
        if found is None or "upload" not in self._permissions.at((*parts, found[0])):
            return None
        if self._hidden is not None and self._hidden(found[0]):
            return None
        return make_entry(*found)._replace(incomplete=True)

    def is_shown(self, name: str) -> bool:
        """Return whether listings show a name: it is no part file, and no rule hides it."""
        return not is_private(name) and (self._hidden is None or not self._hidden(name))

    def _link_entry(self, path: VirtualPath, directory: int, info: os.stat_result) -> Entry:
        try:
            target = os.readlink(path.name, dir_fd=directory)
            with self._jail.place(path, None) as place:
                if not self._is_visible(place):
                    return make_entry(path.name, info)
                found = place.first_stat()
        except (OSError, Refusal):
            return make_entry(path.name, info)
        return make_entry(path.name, found)._replace(is_link=True, link="" if target.startswith("/") else target)

    def _is_visible(self, place: Place) -> bool:
        """Return whether the user may see size and time of the target of a link."""
        here = self._jail.permissions(place)
        return bool(here & _SEEING or (here and "list" in self._permissions.at(place.parts[:-1])))


def make_entry(name: str, info: os.stat_result) -> Entry:
    """Return the entry for a name with this status."""
    mode = info.st_mode
    link = stat.S_ISLNK(mode)
    return Entry(name, mode, info.st_size, info.st_mtime, info.st_dev, info.st_ino, info.st_nlink, link)
