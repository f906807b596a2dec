"""Listings, which are made while they are sent: no listing is ever held in memory. Everything here blocks."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Generator, Iterator
from fnmatch import translate
from operator import attrgetter

from ftpsd.data.endpoints import ChunkSource
from ftpsd.protocol.encoding.names import NameEncoding
from ftpsd.protocol.listing import Entry, shown
from ftpsd.protocol.parsing import ListRequest
from ftpsd.protocol.paths import MAX_DEPTH, VirtualPath
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import Directories, IsTimed, every_name, no_name
from ftpsd.storage.local.tree import Below
from ftpsd.system.jobs.job_queue import JobSteps

#: A directory with at most this many entries is listed in the order of its names, a larger one in that of the storage.
SORTED = 2000

#: Entries in one chunk of a longer listing.
_BATCH = 500

#: Errors of a directory that was removed meanwhile, or that the daemon may not read.
_LEFT_OUT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM)

#: The heading of a directory with `-R` (or ""), and entries.
Batch = tuple[str, list[Entry]]

#: The entries of a directory (see `Directories.portions`).
Portions = Generator[list[Entry], None, None]


class Listings:
    """Makes listings of the directories of one user."""

    def __init__(self, directories: Directories) -> None:
        self._directories = directories

    def listing(self, path: VirtualPath, request: ListRequest, line: Callable[[Entry], str]) -> ChunkSource:
        """Open a listing; `line` formats an entry. Raises Refusal or OSError if its top cannot be listed."""
        batches = self._batches(path, request)
        first = next(batches, None)  # opens the directory: its errors must come before the 150
        return ChunkSource(_chunks(first, batches, line, request.names))

    def first_entries(self, path: VirtualPath, request: ListRequest, limit: int) -> JobSteps[list[Entry]]:
        """Return the first entries of a listing, `limit` at most."""
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
            top = self._directories.entry(path, "list") if request.directory else self._listed(path, request)
        except FileNotFoundError:
            if not any(sign in path.name for sign in "*?["):
                raise
            yield from self._matches(path, request)
            return
        if isinstance(top, Entry):
            yield "", [top._replace(name=request.path or top.name)]
        else:
            yield from self._tree(path, top, request)

    def _listed(self, path: VirtualPath, request: ListRequest) -> Portions | Entry:
        return self._directories.listed(path, request.all, every_name if request.needs_times else no_name)

    def _portions(self, path: VirtualPath, request: ListRequest, is_listed: IsTimed = every_name) -> Portions:
        return self._directories.portions(path, request.all, is_listed if request.needs_times else no_name)

    def _matches(self, path: VirtualPath, request: ListRequest) -> Iterator[Batch]:
        said = request.path.rstrip("/")
        prefix = said.removesuffix(path.name) if said.endswith(path.name) else _as_prefix(str(path.parent))
        dots = path.name.startswith(".")
        pattern = re.compile(translate(path.name))

        def matches(name: str) -> bool:
            return pattern.match(name) is not None and (dots or not name.startswith("."))

        for batch in self._directory(path.parent, self._portions(path.parent, request, matches), request):
            yield "", _renamed([each for each in batch if matches(each.name)], prefix)

    def _tree(self, top: VirtualPath, portions: Portions, request: ListRequest) -> Iterator[Batch]:
        levels = [(yield from self._visit(top, portions, "", _prefix(request, ()), 0, request))]
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
                portions = self._portions(path, request)
                levels.append((yield from self._visit(path, portions, heading, prefix, len(levels), request)))

    def _visit(
        self, path: VirtualPath, portions: Portions, heading: str, prefix: str, depth: int, request: ListRequest
    ) -> Generator[Batch, None, tuple[VirtualPath, Iterator[str | None]]]:
        """Yield the entries of a directory. Return its path, and the names in it to visit next."""
        below = Below(depth)
        try:
            for batch in self._directory(path, portions, request):
                if request.recursive and len(path.parts) < MAX_DEPTH:
                    below.add([each.name for each in batch if _is_below(each)])
                yield heading, _renamed(batch, prefix)
                heading = ""
        except (OSError, Refusal) as error:
            if not depth or _is_failure(error):
                raise  # below the top, directories that may not be read are left out
        if heading:
            yield heading, []
        return path, below.names(lambda: self._below(path))

    def _below(self, path: VirtualPath) -> Iterator[list[str]]:
        try:
            yield from self._directories.names_below(path)
        except (OSError, Refusal) as error:
            if _is_failure(error):
                raise

    def _directory(self, path: VirtualPath, portions: Portions, request: ListRequest) -> Iterator[list[Entry]]:
        in_order = not (request.by_time or request.reverse) and self._directories.are_in_order(path)
        try:
            if request.all:
                yield next(portions, [])
            yield from _in_batches(portions, request, in_order)
        finally:
            portions.close()


def _is_failure(error: OSError | Refusal) -> bool:
    """Return whether an error is a failure of the storage: the directory is there, and the user may read it."""
    if isinstance(error, Refusal):
        return error.reply.code < 500
    return error.errno not in _LEFT_OUT


def _prefix(request: ListRequest, below: tuple[str, ...]) -> str:
    """Return what NLST puts before the names of a directory, which is `below` the one in the request.

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


def _is_below(entry: Entry) -> bool:
    return entry.is_directory and not entry.is_link and entry.name not in (".", "..")


def _in_batches(portions: Iterator[list[Entry]], request: ListRequest, in_order: bool) -> Iterator[list[Entry]]:
    """Yield the entries of a directory in batches, of which some are empty, so that no step takes long.

    `in_order`: the portions are in the order that is wanted, so nothing waits for others that come later.
    """
    batch, enough, unfinished = list[Entry](), _BATCH if in_order else SORTED, False
    is_whole = True
    for some in portions:
        if unfinished:
            yield []
        batch += some
        unfinished = len(batch) < enough
        if not unfinished:
            if in_order:
                _sort(batch, request)
            yield batch
            batch, enough, is_whole = [], _BATCH, False
    if is_whole or in_order:
        _sort(batch, request)
    if batch:
        yield batch


def _sort(entries: list[Entry], request: ListRequest) -> None:
    if request.by_time:
        entries.sort(key=attrgetter("modified"), reverse=not request.reverse)
    else:
        entries.sort(key=attrgetter("name"), reverse=request.reverse)


def _chunks(
    first: Batch | None, rest: Generator[Batch, None, None], line: Callable[[Entry], str], names: NameEncoding
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
            yield names.encode("\r\n".join(lines))
            batch = next(rest, None)
    finally:
        rest.close()
