"""Move a file between two directories that are mounted in one tree: homes and folders."""

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
from ftpsd.storage.local.rename import rename_new
from ftpsd.storage.local.root import Root, inode_of, settle


def move(source: Root, target: Root, old: VirtualPath, new: VirtualPath) -> None:
    """Rename a file within one file system. What has the new name is replaced if the user may overwrite there.

    Raises Refusal (553) for a directory: commands of other sessions that run in it have it open, and would continue in
    the other tree, with its permissions and quota passed by.
    """
    with source.changeable(old, "rename") as here, target.changeable(new, "rename", True) as there:
        for jail, place in ((source.jail, here), (target.jail, there)):
            if not jail.throughout(place, "rename"):
                raise Refusal(550, f"{VirtualPath(place.parts)}: no permission to rename some of its contents.")
        _require_file(here)
        replace = "overwrite" in target.jail.permissions(there)
        try:
            with _counted(source, target, here, there), _leaving(source, old, new, here, there):
                _require_file(here)  # another session may have made a directory of this name instead
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


def _require_file(place: Place) -> None:
    if stat.S_ISDIR(place.stat().st_mode):
        raise Refusal(553, "A directory cannot be moved there: move its files.")


def other_storage() -> Refusal:
    """Return the refusal of a move that would have to copy."""
    return Refusal(553, "The new name is on another disk: download the file and upload it there.")


def _leaving(
    source: Root, old: VirtualPath, new: VirtualPath, here: Place, there: Place
) -> AbstractContextManager[object]:
    """Make the event durable, if a rule wants that."""
    if source.journal is None:
        return nullcontext()
    parts, inode = source.jail.below(here.parts), partial(inode_of, here, here.name)
    return source.journal.rename(old, new, parts, None, inode, partial(settle, source, there, here))


@contextmanager
def _counted(source: Root, target: Root, here: Place, there: Place) -> Iterator[None]:
    """Count what the body takes from one place and adds to the other, in both at once."""
    leaving, arriving = source.counter, target.counter
    with ExitStack() as stack:
        for counter in sorted(filter(None, (leaving, arriving)), key=lambda each: each.order):
            stack.enter_context(counter.changing(measure_nothing))  # both locks, always in the same order
        if leaving is not None:
            stack.enter_context(leaving.changing(partial(_measure, here)))
        if arriving is not None:
            amount = _measure(here, ()) - measure_name(here.directory, part_files.part_name(here.name), ())
            stack.enter_context(arriving.receiving(amount, partial(_measure, there)))
        yield


def _measure(place: Place, charged: Container[Hashable]) -> Amount:
    """Return what a name and its part file hold."""
    return measure(((place.directory, place.name),), charged)
