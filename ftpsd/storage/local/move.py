"""Move a file or directory between two directories that are mounted in one tree: homes and folders."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Container, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial

from ftpsd.limits.home_counts import Amount
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.home_usage import measure_nothing
from ftpsd.storage.local import part_files
from ftpsd.storage.local.jail import Place
from ftpsd.storage.local.measure import measure, measure_name
from ftpsd.storage.local.pinned import stat_name
from ftpsd.storage.local.rename import rename_new
from ftpsd.storage.local.root import Root, inode_of
from ftpsd.storage.local.tree import Identity, directories, identity
from ftpsd.storage.local.upload import exists

#: The most names in a directory that is moved between places with quotas. To measure them takes some 20 ms.
_MOST_ENTRIES = 2000


def move(source: Root, target: Root, old: VirtualPath, new: VirtualPath) -> None:
    """Rename within one file system. What has the new name is replaced if the user may overwrite there."""
    with source.changeable(old, "rename") as here, target.changeable(new, "rename", True) as there:
        for jail, place in ((source.jail, here), (target.jail, there)):
            if not jail.throughout(place, "rename"):
                raise Refusal(550, f"{VirtualPath(place.parts)}: no permission to rename some of its contents.")
        is_directory = stat.S_ISDIR(here.stat().st_mode)
        if is_directory and (source.counter is None) != (target.counter is None):
            # While the tree is counted, nobody must change it: uncounted sessions would.
            raise Refusal(553, "A directory cannot be moved between places with and without a quota: move its files.")
        replace = ("rmdir" if is_directory else "overwrite") in target.jail.permissions(there)
        try:
            with _leaving(source, old, new, here), _counted(source, target, here, there, is_directory):
                if replace:
                    os.rename(here.name, there.name, src_dir_fd=here.directory, dst_dir_fd=there.directory)
                else:
                    rename_new(here.directory, here.name, there.directory, there.name)
                if not here.is_at(there):
                    part_files.remove_unused(there.directory, there.name)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise other_storage() from None
            if isinstance(error, FileExistsError) and not replace:
                raise Refusal(553, f"{new} already exists.") from None
            raise


def other_storage() -> Refusal:
    """Return the refusal of a move that would have to copy."""
    return Refusal(553, "The new name is on another disk: download the file and upload it there.")


def _leaving(source: Root, old: VirtualPath, new: VirtualPath, here: Place) -> AbstractContextManager[object]:
    """Make the event durable, if a rule wants that."""
    if source.journal is None:
        return nullcontext()
    return source.journal.rename(old, new, source.jail.below(here.parts), None, partial(inode_of, here, here.name))


@contextmanager
def _counted(source: Root, target: Root, here: Place, there: Place, is_directory: bool) -> Iterator[None]:
    """Count what the body takes from one place and adds to the other, in both at once."""
    leaving, arriving = source.counter, target.counter
    held = _measure_tree if is_directory else _measure_file
    with ExitStack() as stack:
        for counter in sorted(filter(None, (leaving, arriving)), key=lambda each: each.order):
            stack.enter_context(counter.changing(measure_nothing))  # both locks, always in the same order
        if leaving is not None:
            stack.enter_context(leaving.changing(partial(held, here)))
        if arriving is not None:
            amount = held(here, ()) - measure_name(here.directory, part_files.part_name(here.name), ())
            stack.enter_context(arriving.receiving(amount, partial(held, there)))
        yield


def _measure_file(place: Place, charged: Container[Hashable]) -> Amount:
    """Return what a name and its part file hold."""
    return measure(((place.directory, place.name),), charged)


def _measure_tree(place: Place, charged: Container[Hashable]) -> Amount:
    """Return what a name and all below it hold, with its part file.

    Other sessions in the place wait meanwhile. Raises Refusal if that would be long, or if an upload runs in the tree:
    it is charged where it began.
    """
    total, count = _measure_file(place, charged), 0
    for piece in directories(place.name, place.directory) if exists(place.directory, place.name) else ():
        count += len(piece.names) + len(piece.directories)
        if count > _MOST_ENTRIES:
            raise Refusal(553, f"A directory with more than {_MOST_ENTRIES} names cannot be moved there: move parts.")
        total += Amount(0, len(piece.directories))
        for name in piece.names:
            if name.startswith(part_files.PRIVATE) and _identity(piece.descriptor, name) in charged:
                raise Refusal(450, "An upload to this directory is running: try again later.")
            total += measure_name(piece.descriptor, name, charged)
    return total


def _identity(directory: int, name: str) -> Identity | None:
    found = stat_name(directory, name)
    return None if found is None else identity(found)
