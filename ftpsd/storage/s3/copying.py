"""Copy an object within a store: `copy_object`. Blocks, in steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.calls.client import Found, Multiparts, Objects
from ftpsd.storage.s3.calls.errors import ObjectChanged
from ftpsd.system.worker_threads import JobSteps

#: A larger object is copied in parts of this size, each in a step of its own.
_PART = 512 << 20


def copy_object(
    objects: Objects,
    multiparts: Multiparts,
    source: str,
    target: str,
    found: Found,
    changing: Callable[[], AbstractContextManager[object]],
) -> JobSteps[None]:
    """Copy an object with its time of modification, and return when the store shows the copy.

    The body of `changing` makes the new name. Raises Refusal (450) if the object was replaced meanwhile.
    """
    try:
        if found.size <= _PART:
            with changing():
                etag = objects.copy(source, target, found)
        else:
            etag = yield from _copy_in_parts(multiparts, source, target, found, changing)
    except ObjectChanged:
        raise Refusal(450, "The file was changed meanwhile: try again.") from None
    copy = objects.head(target)
    if copy is None or copy.size != found.size or copy.etag != etag:
        raise Refusal(451, "The storage does not confirm the copy: the old name stays.")


def _copy_in_parts(
    multiparts: Multiparts,
    source: str,
    target: str,
    found: Found,
    changing: Callable[[], AbstractContextManager[object]],
) -> JobSteps[str]:
    identity = multiparts.begin(target, found.modified)
    try:
        parts = []
        for number, first in enumerate(range(0, found.size, _PART), start=1):
            last = min(first + _PART, found.size) - 1
            parts.append((number, multiparts.copy(target, identity, number, source, found, first, last)))
            yield
        with changing():
            return multiparts.complete(target, identity, parts, "")
    except BaseException:
        multiparts.abort(target, identity)
        raise
