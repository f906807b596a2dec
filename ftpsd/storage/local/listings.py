"""What a user sees of the tree below one root: entries, and listings that are made while they are sent.

Everything here blocks, and runs in worker threads (see `root.py`).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from fnmatch import translate
from itertools import islice

from ftpsd.data.transfer import ChunkSource
from ftpsd.protocol.listing import Entry, shown
from ftpsd.protocol.parsing import ListRequest
from ftpsd.protocol.paths import DEEPEST, VirtualPath
from ftpsd.protocol.permissions import Parts
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.local.jail import Jail, Place
from ftpsd.storage.local.part_files import incomplete, is_private, part_name
from ftpsd.storage.local.tree import STEP, Identity, identity, in_portions, names_in, portion
from ftpsd.system.worker_threads import JobSteps

#: A directory of at most so many entries is listed in the order of its names; a larger one as the
#: disk has it, so that no listing is ever held in memory.
SORTED = 2000

#: Entries that become one chunk of a longer listing.
_BATCH = 500

#: A heading of `-R`, or none, and entries.
Batch = tuple[str, list[Entry]]

#: What following a broken link gives.
_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


#: Permissions that imply size and time of a file.
_TELLING = frozenset({"list", "download"})


class View(Jail):
    """The part of `session.Files` that only looks."""

    def entry(self, path: VirtualPath, *permissions: str) -> Entry:
        """Return the facts of a path at which one of the permissions holds.

        A link that leads out, nowhere, or to where none of them holds is told as the link.
        """
        try:
            with self.place(path, None) as place:
                self.require_any(place, *permissions)
                return _entry(path.name, place.stat())
        except (OSError, Refusal) as error:
            if isinstance(error, OSError) and error.errno not in _LEADS_NOWHERE:
                raise
            with self.place(path, None, follow=False) as place:
                if isinstance(error, FileNotFoundError) and (cut := self.incomplete(place)) is not None:
                    return cut
                found = place.stat()
                if not stat.S_ISLNK(found.st_mode):
                    raise
                return _entry(path.name, found)

    def require_directory(self, path: VirtualPath) -> None:
        """Whether it is a directory that the user may be in."""
        with self.place(path, None) as place:
            if not self.permissions(place):
                raise Refusal(550, f"{VirtualPath(place.parts)}: this account has no permission there.")
            os.close(place.open_directory())

    # --- listings ----------------------------------------------------------------------------------

    def listing(self, path: VirtualPath, request: ListRequest, line: Callable[[Entry], str]) -> ChunkSource:
        """A listing as chunks of lines, made while they are sent. What is refused is refused now."""
        batches = self._batches(path, request)
        first = next(batches, None)  # opens the directory: its errors come before the 150
        return ChunkSource(_chunks(first, batches, line))

    def first_entries(self, path: VirtualPath, request: ListRequest, limit: int) -> JobSteps[list[Entry]]:
        """At most so many entries."""
        batches, found = self._batches(path, request), list[Entry]()
        try:
            for _, batch in batches:
                found += batch[: limit - len(found)]
                if len(found) == limit:
                    break
                yield
        finally:
            batches.close()
        return found

    def _batches(self, path: VirtualPath, request: ListRequest) -> Generator[Batch, None, None]:
        try:
            single = self.entry(path, "list")
        except FileNotFoundError:
            if not any(sign in path.name for sign in "*?["):
                raise
            yield from self._matches(path, request)
            return
        if single.is_directory and not request.directory:
            yield from self._tree(path, request)
        else:
            yield "", [single._replace(name=request.path or single.name)]

    def _matches(self, path: VirtualPath, request: ListRequest) -> Iterator[Batch]:
        said = request.path.rstrip("/")
        prefix = said.removesuffix(path.name) if said.endswith(path.name) else _as_prefix(str(path.parent))
        dots = path.name.startswith(".")
        matches = re.compile(translate(path.name)).match
        for batch in self._directory(path.parent, request):
            found = [each for each in batch if matches(each.name) and (dots or not each.name.startswith("."))]
            yield "", _renamed(found, prefix)

    def _tree(self, top: VirtualPath, request: ListRequest) -> Iterator[Batch]:
        levels = [(yield from self._visit(top, "", _prefix(request, ()), 0, request))]
        while levels:
            path, names = levels[-1]
            name = next(names, "")
            if name is None:
                yield "", []
            elif not name:
                levels.pop()
            else:
                path = path.child(name)
                heading, prefix = f"\r\n{shown(str(path))}:", _prefix(request, path.parts[len(top.parts) :])
                levels.append((yield from self._visit(path, heading, prefix, len(levels), request)))

    def _visit(
        self, path: VirtualPath, heading: str, prefix: str, depth: int, request: ListRequest
    ) -> Generator[Batch, None, tuple[VirtualPath, Iterator[str | None]]]:
        """Yield the entries of a directory. Return its path, and the names in it to visit next."""
        below, limit = list[str](), portion(depth)
        try:
            for batch in self._directory(path, request):
                if request.recursive and len(path.parts) < DEEPEST and len(below) <= limit:
                    below += [each.name for each in batch if _is_below(each)]
                yield heading, _renamed(batch, prefix)
                heading = ""
        except (OSError, Refusal):
            if not depth:
                raise  # below the top, what may not be read is left out
        if heading:
            yield heading, []
        return path, in_portions(below, limit, lambda: self._below(path))

    def _below(self, path: VirtualPath) -> Iterator[list[str]]:
        """The names of the directories in one, in no order."""
        with suppress(OSError, Refusal):
            if self._permissions.paths:  # what they do not let be seen is told from the entries
                for batch in self._directory(path, ListRequest(path="")):
                    yield [each.name for each in batch if _is_below(each)]
                return
            with self.place(path, "list") as place:
                descriptor = place.open_directory()
            try:
                for _, names in names_in(descriptor):
                    yield [name for name in names if self._is_shown(name)]
            finally:
                os.close(descriptor)

    def _directory(self, path: VirtualPath, request: ListRequest) -> Iterator[list[Entry]]:
        with self.place(path, "list") as place:
            descriptor, parts = place.open_directory(), place.parts
        try:
            if request.all:
                here = os.fstat(descriptor)
                yield [_entry(".", here), _entry("..", here)]
            with os.scandir(descriptor) as found:
                yield from _in_batches(found, lambda some: self._scan(path, parts, descriptor, some), request)
        finally:
            os.close(descriptor)

    def _scan(
        self, path: VirtualPath, parts: tuple[str, ...], directory: int, found: Iterable[os.DirEntry[str]]
    ) -> Iterator[Entry]:
        ruled = self._ruled_names(parts, directory)
        for item in found:
            name = item.name
            if is_private(name):
                if (cut := self._incomplete(parts, directory, name)) is not None:
                    yield cut
                continue
            if not self._is_shown(name):
                continue
            try:
                info = item.stat(follow_symlinks=False)
            except OSError:
                continue  # it went away meanwhile
            if ruled and not self._permissions.at((*parts, ruled.get(identity(info), name))):
                continue
            if stat.S_ISLNK(info.st_mode):
                yield self._link_entry(path.child(name), directory, info)
            else:
                yield _entry(name, info)

    def _ruled_names(self, parts: Parts, directory: int) -> dict[Identity, str]:
        """Return which files of a directory the rules mean, and by what names: the disk may spell them differently."""
        found = {}
        for name in self._permissions.branches(parts):
            with suppress(OSError):
                found[identity(os.stat(name, dir_fd=directory, follow_symlinks=False))] = name
        return found

    def incomplete(self, place: Place) -> Entry | None:
        """Return the entry of an upload that was cut, if nothing else has that name and this user may resume it."""
        if "upload" not in self.permissions(place):
            return None
        return self._incomplete(place.parts[:-1], place.directory, part_name(place.name))

    def _incomplete(self, parts: tuple[str, ...], directory: int, part: str) -> Entry | None:
        """Return the entry of an upload that was cut, for those who may resume it.

        FileZilla resumes only what it has seen in a listing. Everybody else sees complete files only.
        """
        found = incomplete(directory, part)
        if found is None or "upload" not in self._permissions.at((*parts, found[0])):
            return None
        if self._name_rules.hidden is not None and self._name_rules.hidden(found[0]):
            return None
        return _entry(*found)._replace(incomplete=True)

    def _is_shown(self, name: str) -> bool:
        return not is_private(name) and (self._name_rules.hidden is None or not self._name_rules.hidden(name))

    def _link_entry(self, path: VirtualPath, directory: int, info: os.stat_result) -> Entry:
        try:
            target = os.readlink(path.name, dir_fd=directory)
            with self.place(path, None) as place:
                if not self._is_visible(place):
                    return _entry(path.name, info)
                found = place.stat()
        except (OSError, Refusal):
            return _entry(path.name, info)
        return _entry(path.name, found)._replace(is_link=True, link="" if target.startswith("/") else target)

    def _is_visible(self, place: Place) -> bool:
        """Whether a listing may tell size and time: that of its own directory, or the place's permissions."""
        here = self.permissions(place)
        return bool(here & _TELLING or (here and "list" in self._permissions.at(place.parts[:-1])))


def _prefix(request: ListRequest, below: tuple[str, ...]) -> str:
    """Return what NLST puts before the names of a directory, which is `below` the one that was asked for.

    RFC 1123 section 4.1.2.7: the names must be usable in RETR. vsftpd, ProFTPD and Pure-FTPd answer the same; tnftp's
    `mget` and PHP's `ftp_nlist` rely on it.
    """
    if not request.as_paths:
        return ""
    said = request.path.rstrip("/")
    start = "" if said == "." or not request.path else f"{said}/"
    return start + "".join(f"{part}/" for part in below)


def _as_prefix(directory: str) -> str:
    return directory.rstrip("/") + "/"


def _renamed(batch: list[Entry], prefix: str) -> list[Entry]:
    return [each._replace(name=prefix + each.name) for each in batch] if prefix else batch


def _entry(name: str, info: os.stat_result) -> Entry:
    mode = info.st_mode
    link = stat.S_ISLNK(mode)
    return Entry(name, mode, info.st_size, info.st_mtime, info.st_dev, info.st_ino, info.st_nlink, link)


def _is_below(entry: Entry) -> bool:
    return entry.is_directory and not entry.is_link and entry.name not in (".", "..")


def _in_batches(
    found: Iterator[os.DirEntry[str]],
    scan: Callable[[Iterable[os.DirEntry[str]]], Iterable[Entry]],
    request: ListRequest,
) -> Iterator[list[Entry]]:
    """Entries for what was found in a directory. Some batches are empty: no step is long."""
    batch, enough = list[Entry](), SORTED
    while some := list(islice(found, STEP)):
        batch += scan(some)
        if len(batch) >= enough:
            yield batch
            batch, enough = [], _BATCH
        elif len(some) == STEP:
            yield []
    if enough == SORTED:
        _sort(batch, request)
    if batch:
        yield batch


def _sort(entries: list[Entry], request: ListRequest) -> None:
    if request.by_time:
        entries.sort(key=lambda entry: entry.modified, reverse=not request.reverse)
    else:
        entries.sort(key=lambda entry: entry.name, reverse=request.reverse)


def _chunks(
    first: Batch | None, rest: Generator[Batch, None, None], line: Callable[[Entry], str]
) -> Generator[bytes, None, None]:
    try:
        batch = first
        while batch is not None:
            heading, entries = batch
            lines = [line(entry) for entry in entries]
            if heading:
                lines.insert(0, heading)
            if lines:
                lines.append("")
            yield "\r\n".join(lines).encode("utf-8", "surrogateescape")
            batch = next(rest, None)
    finally:
        rest.close()
