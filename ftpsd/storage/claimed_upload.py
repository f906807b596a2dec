"""An upload whose event a rule wants: ClaimedUpload."""

from __future__ import annotations

from typing import Protocol

from ftpsd.outbox.claims import Evidence, UploadClaim
from ftpsd.storage.backend import Upload


class ProvableUpload(Upload, Protocol):
    """An upload of which it can be told after a crash whether it was published."""

    def evidence(self, claim: UploadClaim) -> Evidence:
        """Return what tells this. Called between `flush` and `take_name`."""

    def leave(self) -> None:
        """Keep what was received when the upload ends, since it is not known yet whether it has failed."""


class ClaimedUpload:
    """Writes an intent before the upload gets its name, and the decision afterwards (see `ftpsd.outbox`).

    The part file of an upload that failed goes after the decision only: until then it shows that nothing was published.
    """

    def __init__(self, upload: ProvableUpload, claim: UploadClaim) -> None:
        self._upload = upload
        self._claim = claim
        self._named = False
        self.name = upload.name
        self.must_copy = upload.must_copy
        self.copy = upload.copy
        self.write = upload.write
        self.pending = upload.pending
        self.initial_amount = upload.initial_amount
        self.open_part_file = upload.open_part_file
        self.discard_written = upload.discard_written
        self.replaces = upload.replaces
        self.measure = upload.measure

    def publish(self) -> None:
        """Give the complete file its name."""
        self.flush()
        self.take_name()
        self.settle()

    def flush(self) -> None:
        """Write all bytes to the disk, and the intent. Raises Refusal if the event cannot be stored."""
        self._upload.flush()
        self._claim.intend(self._upload.evidence(self._claim))

    def take_name(self) -> bool:
        """Give the file its name (see `backend.Upload`)."""
        is_part_file = self._upload.take_name()
        self._named = True
        return is_part_file

    def settle(self) -> None:
        """Write the name to the disk, and the decision: also if the disk fails, since others see the file."""
        try:
            self._upload.settle()
        finally:
            self._claim.decide(made=True)

    def close(self) -> None:
        """End the upload. Any number of times."""
        claim = self._claim
        if claim.identity and not claim.decide(made=self._named):
            self._upload.leave()
        self._upload.close()
