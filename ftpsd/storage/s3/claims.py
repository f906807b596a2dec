"""The events of changes in a store that rules want: `Claims`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from ftpsd.outbox.claims import SessionJournal, UploadClaim
from ftpsd.protocol.paths import VirtualPath
from ftpsd.storage.backend import Upload
from ftpsd.storage.claimed_upload import ClaimedUpload
from ftpsd.storage.s3.calls.answers import Found
from ftpsd.storage.s3.tree import Tree
from ftpsd.storage.s3.uploads.evidence import gone
from ftpsd.storage.s3.uploads.upload import S3Upload

_UNCLAIMED = nullcontext()


class Claims:
    """Makes the events of one session durable. Without a journal, nothing is claimed."""

    def __init__(self, store: str, tree: Tree, journal: SessionJournal | None) -> None:
        self._store = store
        self._tree = tree
        self._journal = journal

    def removing(self, path: VirtualPath, key: str, found: Found | None) -> AbstractContextManager[object]:
        """Claim that the body removes an object."""
        if self._journal is None:
            return _UNCLAIMED
        return self._journal.removing(path, lambda: gone(self._store, key, found.etag if found else ""))

    def renaming(
        self, old: VirtualPath, new: VirtualPath, keys: tuple[str, str], found: Found | None
    ) -> AbstractContextManager[object]:
        """Claim that the body gives a key another name. Without an object, it is that of a directory."""
        if self._journal is None:
            return _UNCLAIMED
        source, target = keys
        return self._journal.renaming(old, new, lambda: gone(self._store, source, found.etag if found else "", target))

    def upload(self, path: VirtualPath, append: bool, offset: int, begin: Callable[[], S3Upload]) -> Upload:
        """Begin an upload, whose publication is claimed if a rule wants that."""
        claim: UploadClaim | None = None
        if self._journal is not None:
            claim = self._journal.upload(path, self._tree.below(path.parts), append, offset)
        upload = begin()
        return upload if claim is None else ClaimedUpload(upload, claim)
