"""Read directories of this machine for listings (see `backend.Directories`). Everything here blocks."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice

from ftpsd.protocol.listing import Entry
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import IsTimed, every_name
from ftpsd.storage.local.entries import Entries, make_entry
from ftpsd.storage.local.jail import Jail
from ftpsd.storage.local.tree import STEP, names_in


class LocalDirectories:
    """The directories below one root, as one user may see them."""

    def __init__(self, jail: Jail, entries: Entries) -> None:
        self._jail = jail
        self._entries = entries
        self.entry = entries.entry

    def portions(
        self, path: VirtualPath, with_dots: bool, is_timed: IsTimed = every_name
    ) -> Generator[list[Entry], None, None]:
        """Yield the entries of a directory in portions, in no order."""
        with self._jail.place(path, "list") as place:
            descriptor = place.open_directory()
        try:
            if with_dots:
                here = os.fstat(descriptor)
                yield [make_entry(".", here), make_entry("..", here)]
            with os.scandir(descriptor) as found:
                while some := list(islice(found, STEP)):
                    yield list(self._entries.scan(path, place, descriptor, some))
        finally:
            os.close(descriptor)

    def listed(
        self, path: VirtualPath, with_dots: bool, is_timed: IsTimed = every_name
    ) -> Generator[list[Entry], None, None] | Entry:
        """Return the portions of a directory, or the entry of what is none.

        Most names are directories, so that is tried first: each way to a name costs as much as two entries.
        """
        portions = self.portions(path, with_dots, is_timed)
        try:
            first = next(portions, [])
        except (OSError, Refusal):
            entry = self.entry(path, "list")
            if entry.is_directory:
                raise
            return entry
        return _resumed(first, portions)

    def are_in_order(self, path: VirtualPath) -> bool:
        """Return False: a disk has an order of its own."""
        return False

    def names_below(self, path: VirtualPath) -> Iterator[list[str]]:
        """Yield the names of the directories in a directory, in no order."""
        if self._jail.permission_rules.paths or self._jail.covered:  # some may be hidden
            for portion in self.portions(path, False):
                yield [each.name for each in portion if each.is_directory and not each.is_link]
            return
        with self._jail.place(path, "list") as place:
            descriptor = place.open_directory()
        try:
            for _, names in names_in(descriptor):
                yield [name for name in names if self._entries.is_shown(name)]
        finally:
            os.close(descriptor)


def _resumed(first: list[Entry], rest: Generator[list[Entry], None, None]) -> Generator[list[Entry], None, None]:
    with closing(rest):
        yield first
        yield from rest
