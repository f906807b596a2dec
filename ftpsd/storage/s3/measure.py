"""Measure what keys and homes in a store hold, for quotas.

Each object counts with its size and as one file; so does the marker of a directory, which is empty, and each open
upload of ftpsd with its parts. A directory without a marker counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterator
from contextlib import AbstractContextManager

from ftpsd.limits.home_counts import Amount
from ftpsd.storage.backend import Measure
from ftpsd.storage.s3.calls.client import Objects
from ftpsd.storage.s3.uploads.cut_uploads import CutUpload, CutUploads

#: Returns the store of a place, and what its keys begin with. Raises OSError if there is no such store.
FindStore = Callable[[str], "tuple[Objects, CutUploads, str]"]


def measure_keys(objects: Objects, cut: CutUploads, keys: tuple[str, ...], charged: Container[Hashable]) -> Amount:
    """Return what keys and their open uploads hold."""
    total = Amount()
    for key in keys:
        found = objects.head(key)
        if found is not None:
            total += Amount(found.size, 1)
        if not key.endswith("/"):
            total += _open(cut, cut.all_of(key), charged)
    return total


def _open(cut: CutUploads, uploads: list[CutUpload], charged: Container[Hashable]) -> Amount:
    total = Amount()
    for each in uploads:
        if each.size and not cut.running.is_charged(each.key, each.identity, each.modified, charged):
            total += Amount(each.size, 1)
    return total


class Freed:
    """A measure for the removal of something whose amount is known: what is `left` of it."""

    def __init__(self, amount: Amount) -> None:
        #: Less of it only when the store has confirmed that: otherwise more could be stored than a quota permits.
        self.left = amount

    def __call__(self, _: Container[Hashable]) -> Amount:
        return self.left


def abort_counted(
    cut: CutUploads, upload: CutUpload, counted: Callable[[Measure], AbstractContextManager[object]]
) -> bool:
    """Remove an upload in the body of `counted`. Return whether it was there: else somebody else has counted that."""
    removed = False

    def left(charged: Container[Hashable]) -> Amount:
        return Amount() if removed else _open(cut, [upload], charged)

    with counted(left):
        removed = cut.abort(upload.key, upload.identity)
    return removed


class StoreMeter:
    """Measures homes in stores: a `HomeMeter`."""

    def __init__(self, find: FindStore) -> None:
        self._find = find

    def exists(self, home: str) -> bool:
        """Return whether there is such a home: there is always one."""
        return True

    def amounts(self, home: str, charged: Container[Hashable]) -> Iterator[Amount]:
        """Yield what the home holds: a page of objects, or an open upload, in each step."""
        objects, cut, prefix = self._find(home)
        following: str | None = None
        while True:
            page = objects.page(prefix, flat=True, following=following)
            found = [each for each in page.objects if each.key != prefix]
            yield Amount(sum(each.size for each in found), len(found))
            following = page.following
            if following is None:
                break
        for each in cut.below(prefix):
            yield Amount() if each is None else _open(cut, [each], charged)
