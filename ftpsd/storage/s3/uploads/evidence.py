"""What tells, after a crash, whether a change in a store was made (see `ftpsd.outbox.evidence`). Everything blocks.

The rules for an upload:

1. The key has an object with the ETag that was expected: the upload was published. If the store computes ETags in a way
   of its own, its size is compared, and it must not be the old object.
2. The key has the old object, or none, or the multipart upload is still open: it was not.
3. The key has another object: nobody can tell.

A removal or a rename was made if the old name has another object, or none. A rename deletes the old name in the end.
"""

from __future__ import annotations

from ftpsd.outbox.evidence import Lost, Undecidable
from ftpsd.outbox.segments import Entry
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.calls.answers import Found
from ftpsd.storage.s3.calls.client import Objects
from ftpsd.storage.s3.uploads.cut_uploads import CutUploads


def published(store: str, key: str, etag: str, size: int, old: Found | None, upload: str) -> Entry:
    """Return the evidence of an upload. `etag` is what is expected, or empty; `upload` is the multipart upload."""
    return {
        "store": store,
        "new": key,
        "old": None,
        "etag": etag,
        "size": size,
        "replaced": None if old is None else old.etag,
        "upload": upload,
    }


def gone(store: str, key: str, etag: str, new: str | None = None) -> Entry:
    """Return the evidence that a key loses its object, or gets another name. A key with a slash is a directory."""
    return {"store": store, "new": new, "old": key, "etag": etag}


def was_made(objects: Objects, cut: CutUploads, evidence: Entry) -> bool:
    """Return whether a change was made. Raises Undecidable if the store cannot be asked, and Lost."""
    try:
        return _has_gone(objects, evidence) if evidence["old"] is not None else _is_published(objects, cut, evidence)
    except (Refusal, OSError) as error:
        raise Undecidable(str(error)) from None


def _has_gone(objects: Objects, evidence: Entry) -> bool:
    key = str(evidence["old"])
    if key.endswith("/"):
        return not objects.page(key, flat=True, most=1).objects
    found = objects.head(key)
    return found is None or found.etag != evidence["etag"]


def _is_published(objects: Objects, cut: CutUploads, evidence: Entry) -> bool:
    key, etag, upload = str(evidence["new"]), evidence["etag"], evidence["upload"]
    found = objects.head(key)
    if found is not None and etag and found.etag.strip('"') == etag:
        return True
    if found is None or found.etag == evidence["replaced"]:
        return False
    if upload and any(each.identity == upload for each in cut.all_of(key)):
        return False
    if not etag and found.size == evidence["size"]:
        return True
    raise Lost(f"{key} was replaced")
