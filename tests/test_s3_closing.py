"""An upload to a store that is closed while it is published: ABOR, a deadline, or the end of the session."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ftpsd.protocol.replies import Refusal
from ftpsd.storage.claimed_upload import ClaimedUpload
from ftpsd.storage.s3.calls.tasks import RemoteUpload
from tests.daemon import PATIENCE
from tests.s3 import Bucket
from tests.test_files import path
from tests.test_s3_files import MIB, Node


class SlowClaim:
    """A claim whose intent takes until the upload is closed."""

    def __init__(self) -> None:
        self.begun, self.closed = threading.Event(), threading.Event()
        self.decided = list[bool]()

    def intend(self, evidence: object) -> None:
        """Write the intent."""
        self.begun.set()
        assert self.closed.wait(PATIENCE)

    def decide(self, made: bool) -> bool:
        """Write the decision, of which the first one counts."""
        self.decided.append(made)
        return True


@pytest.mark.parametrize("size", [20, 11 * MIB])
def test_closed_while_it_is_published(bucket: Bucket, size: int) -> None:
    """The object is whole, and the event says that it was stored: nothing is closed before the end of the request."""
    bucket.put("alice/f", b"the old object")
    node, data = Node(bucket), bytes(range(1, 21)) * (size // 20)
    begun: Any = node.open().writer(path("f"))()
    inner: Any = begun._opened.result()
    claim: Any = SlowClaim()
    with ThreadPoolExecutor(4) as pool:
        upload = RemoteUpload(pool.submit, lambda: ClaimedUpload(inner, claim), node.store.closing, "alice/f")
        upload._opened.result().write(data)
        while not claim.begun.wait(0.01):
            upload.pending(True)
        upload.close()
        claim.closed.set()
        upload.publish()
        node.store.closing.wait("alice/f")
    assert bucket.get("alice/f") == data
    assert claim.decided[0]
    assert bucket.uploads() == []


def test_nothing_is_published_after_the_end(bucket: Bucket) -> None:
    """An upload that is closed cannot be published any more: its bytes have gone."""
    bucket.put("alice/f", b"the old object")
    upload: Any = Node(bucket).open().writer(path("f"))()
    inner = upload._opened.result()
    upload.write(b"new")
    upload.close()
    for call in (upload.publish, inner.publish, inner.flush, inner.take_name):
        with pytest.raises(Refusal):
            call()
    assert bucket.get("alice/f") == b"the old object"
