"""Let a complete upload have its key, in one step of the store: `publish`. Everything blocks.

The store replaces an object in one step: readers see the old one or the new one. If the upload must not replace any
object, its key is looked at just before, and the store is sent If-Match or If-None-Match where boto3 knows them.
Stores without these leave a moment between the look and the step, in which another client may publish.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.calls.answers import Found
from ftpsd.storage.s3.calls.client import Objects
from ftpsd.storage.s3.calls.errors import ObjectChanged, StoreFailed, UploadGone
from ftpsd.storage.s3.calls.multiparts import Multiparts
from ftpsd.storage.s3.uploads.collecting import Collector

#: What a complete upload may replace.
Replaces = Literal["anything", "the old file", "nothing"]


@dataclass(frozen=True, slots=True)
class Target:
    """What an upload is to become."""

    key: str
    name: str
    #: What has the key when the upload begins.
    old: Found | None
    #: Whether it continues the old object (APPE).
    append: bool
    replaces: Replaces


class Conflict(Exception):
    """The upload cannot be published, and its bytes are of no use."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


def publish(objects: Objects, multiparts: Multiparts, target: Target, collected: Collector, continued: bool) -> None:
    """Store the object, and return when the store shows it. `continued`: it starts with bytes of the old object.

    Raises Conflict if the key belongs to an object that must not be replaced, and StoreFailed.
    """
    replaces: Replaces = "the old file" if continued else target.replaces
    expected: Found | str | None = ""
    if replaces != "anything":
        expected = target.old if replaces == "the old file" else None
        if not _is_still(objects, target.key, expected):
            raise _conflict(target, replaces)
    try:
        etag = _store(objects, multiparts, target, collected, expected)
    except ObjectChanged:
        if not _is_still(objects, target.key, expected):
            raise _conflict(target, replaces) from None
        # Swift compares If-Match with something else than the object.
        etag = _store(objects, multiparts, target, collected, "")
    _confirm(objects, target.key, etag, collected.position)


def _is_still(objects: Objects, key: str, expected: Found | str | None) -> bool:
    """Return whether a key has the object that an upload must replace, or none if there must be none."""
    now = objects.head(key)
    return (now.etag if now else None) == (expected.etag if isinstance(expected, Found) else None)


def _conflict(target: Target, replaces: Replaces) -> Conflict:
    if replaces == "nothing":
        return Conflict(Refusal(553, f"{target.name} already exists."))
    return Conflict(Refusal(450, f"{target.name} was changed during the upload: try again."))


def _store(
    objects: Objects, multiparts: Multiparts, target: Target, collected: Collector, expected: Found | str | None
) -> str:
    """Store the object, and return its ETag.

    If the answer is lost, the store may have done it: then the object has the ETag that can be computed. A repeated
    request may then fail since the first one was successful.
    """
    parts = collected.parts
    try:
        if not parts.is_multipart:
            return objects.put(target.key, collected.buffer, expected, progress=parts.progress)
        with parts.progress.patiently():
            return multiparts.complete(target.key, parts.identity, parts.list_all(), expected)
    except (StoreFailed, UploadGone, ObjectChanged) as error:
        etag, found = expected_etag(collected), objects.head(target.key)
        if found is not None and etag and found.etag.strip('"') == etag and found.size == collected.position:
            return found.etag
        if isinstance(error, UploadGone):
            raise Conflict(Refusal(450, f"Another upload to {target.name} has ended this one: try again.")) from None
        raise


def expected_etag(collected: Collector) -> str:
    """Return the ETag that the object gets, or "" if the store computes those of parts in a way of its own.

    Raises UploadGone if a part is missing.
    """
    if not collected.parts.is_multipart:
        return hashlib.md5(collected.buffer, usedforsecurity=False).hexdigest()
    return etag_of_parts([etag for _, etag in collected.parts.list_all()])


def etag_of_parts(etags: list[str]) -> str:
    """Return the ETag of an object in parts, or "" if the store computes ETags in a way of its own."""
    digests = [etag.strip('"') for etag in etags]
    try:
        raw = b"".join(bytes.fromhex(each) for each in digests)
    except ValueError:
        return ""
    return f"{hashlib.md5(raw, usedforsecurity=False).hexdigest()}-{len(digests)}"


def _confirm(objects: Objects, key: str, etag: str, size: int) -> None:
    found = objects.head(key)
    if found is None or found.size != size or found.etag != etag:
        seen = "nothing" if found is None else f"{found.size} bytes with the ETag {found.etag}"
        why = f"{size} bytes with the ETag {etag} were stored as {key}, but it shows {seen}"
        raise StoreFailed(451, "The object store does not confirm the file: send it again.", why)
