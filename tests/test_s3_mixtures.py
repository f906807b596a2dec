"""A file in a store is never a mixture of two attempts, whatever an upload that was cut has left there.

The daemon sends parts in parallel. So SIGKILL, or a part that fails, leaves parts behind a gap, and the store keeps
them. Threads of the store are direct calls here, except where parts must be on their way at the same time.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.calls.errors import StoreFailed
from ftpsd.storage.s3.uploads.parts import MARKER
from tests.daemon import PATIENCE
from tests.inprocess import DirectCalls
from tests.s3 import Bucket
from tests.test_files import begin, cut, path, refused, result, store
from tests.test_s3_files import MIB, Node

#: Two files, no part of which is alike.
DATA, OTHER = os.urandom(28 * MIB), os.urandom(28 * MIB)


class Threads(DirectCalls):
    """Worker threads whose jobs for parts run at the same time."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def submit(self, job: Any) -> None:
        """Run a job in a thread."""
        self._pool.submit(job)


def parallel(node: Node, pool: ThreadPoolExecutor) -> Node:
    """Let a node send parts at the same time."""
    threads: Any = Threads(pool)
    node.store._threads = threads
    return node


def left_by_sigkill(bucket: Bucket, data: bytes, numbers: tuple[int, ...]) -> None:
    """Make what a daemon leaves in the store when it is killed: some parts of 5 MiB, and the marker."""
    client, key = bucket.client, "alice/f"
    upload = client.create_multipart_upload(Bucket=bucket.name, Key=key)["UploadId"]
    for number in numbers:
        part = data[(number - 1) * 5 * MIB : number * 5 * MIB]
        client.upload_part(Bucket=bucket.name, Key=key, UploadId=upload, PartNumber=number, Body=part)
    client.upload_part(Bucket=bucket.name, Key=key, UploadId=upload, PartNumber=MARKER, Body=b"")


def size_of(bucket: Bucket) -> int:
    """Return what SIZE says on another node."""
    return result(Node(bucket).open().size(path("f")))


def resume_to_the_end(bucket: Bucket, data: bytes, steps: tuple[int, ...]) -> None:
    """Resume at SIZE on another node; each step is cut after so many bytes, and then the rest is sent."""
    for step in steps:
        at = size_of(bucket)
        cut(Node(bucket).open().writer(path("f"), offset=at), data[at : at + step])
    at = size_of(bucket)
    store(Node(bucket).open().writer(path("f"), offset=at), data[at:])
    assert bucket.get("alice/f") == data
    assert bucket.uploads() == []


@pytest.mark.parametrize("first", [2 * MIB, 4 * MIB, 5 * MIB, 6 * MIB, 11 * MIB])
def test_parts_behind_a_gap_do_not_come_back(bucket: Bucket, first: int) -> None:
    """SIGKILL has left the parts 1, 2 and 4 of another file: no cut of what follows lets part 4 be one of this file."""
    left_by_sigkill(bucket, DATA[: 10 * MIB] + OTHER[10 * MIB :], (1, 2, 4, 5))
    assert size_of(bucket) == 10 * MIB
    resume_to_the_end(bucket, DATA, (first,))


def test_rest_at_a_lower_boundary(bucket: Bucket) -> None:
    """REST before the end of what is kept: what follows is of the new attempt alone, even if that is cut, too."""
    cut(Node(bucket).open().writer(path("f")), DATA[: 5 * MIB] + OTHER[5 * MIB : 26 * MIB])
    assert size_of(bucket) == 25 * MIB
    cut(Node(bucket).open().writer(path("f"), offset=5 * MIB), DATA[5 * MIB : 11 * MIB])
    assert size_of(bucket) == 10 * MIB
    resume_to_the_end(bucket, DATA, ())


def test_a_kill_while_the_old_parts_are_removed(bucket: Bucket) -> None:
    """If the store, or the daemon, fails between the first and the last of them, the next attempt removes the rest."""
    left_by_sigkill(bucket, DATA[: 5 * MIB] + OTHER[5 * MIB :], (1, 3, 4, 5))
    node, sent = Node(bucket), list[int]()
    put = node.store.multiparts.put

    def failing(key: str, identity: str, number: int, data: bytes | bytearray, *_: object) -> str:
        if sent:
            raise StoreFailed(451, "Storage not available: try again later.", "it is killed")
        sent.append(number)
        return put(key, identity, number, data)

    node.store.multiparts.put = failing  # type: ignore[method-assign]
    refused(451, begin(node.open().writer(path("f"), offset=5 * MIB)))
    assert sent == [3]
    assert size_of(bucket) == 5 * MIB
    resume_to_the_end(bucket, DATA, (6 * MIB,))


def test_only_full_parts_are_kept(bucket: Bucket) -> None:
    """A part that is not full is not kept, since Cloudflare R2 demands parts of one size."""
    cut(Node(bucket).open().writer(path("f")), DATA[: 9 * MIB])
    assert size_of(bucket) == 5 * MIB


def write(upload: Any, data: bytes) -> None:
    """Write as a transfer does."""
    rest = memoryview(data)
    while rest:
        wait_for(upload)
        upload.write(rest[: MIB // 2])
        rest = rest[MIB // 2 :]


def wait_for(upload: Any, complete: bool = False) -> None:
    """Wait until an upload can go on."""
    deadline = time.monotonic() + PATIENCE
    while upload.pending(complete):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def close(node: Node, upload: Any, key: str = "alice/f") -> None:
    """Close an upload, and wait until it is closed."""
    upload.close()
    node.store.closing.wait(key)
    assert key not in node.store.closing._keys


def test_a_part_that_fails_while_others_do_not(bucket: Bucket) -> None:
    """The upload gets 451. When it is resumed, later parts are sent again, and the file is the one that was sent."""
    with ThreadPoolExecutor(8) as pool:
        node = parallel(Node(bucket), pool)
        put, others = node.store.multiparts.put, threading.Event()

        def failing(key: str, identity: str, number: int, data: bytes | bytearray, *_: object) -> str:
            if number == 2:
                assert others.wait(PATIENCE)
                raise StoreFailed(451, "Storage not available: try again later.", "InternalError")
            etag = put(key, identity, number, data)
            if number == 4:
                others.set()
            return etag

        node.store.multiparts.put = failing  # type: ignore[method-assign]
        upload: Any = node.open().writer(path("f"))()
        with pytest.raises(Refusal) as caught:
            write(upload, DATA[: 5 * MIB] + OTHER[5 * MIB :])
            wait_for(upload, complete=True)
        assert caught.value.reply.code == 451
        close(node, upload)
    assert size_of(bucket) == 5 * MIB
    resume_to_the_end(bucket, DATA, (8 * MIB, 6 * MIB))


def test_a_part_that_comes_late(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a part of an upload that was cut is still on its way, nobody resumes it: the client gets 450."""
    monkeypatch.setattr("ftpsd.storage.s3.uploads.upload._CLOSING", 1.0)
    with ThreadPoolExecutor(8) as pool:
        node = parallel(Node(bucket), pool)
        put, first, late = node.store.multiparts.put, threading.Event(), threading.Event()

        def slow(key: str, identity: str, number: int, data: bytes | bytearray, *_: object) -> str:
            if number == 2:
                assert late.wait(PATIENCE)
            etag = put(key, identity, number, data)
            if number == 1:
                first.set()
            return etag

        node.store.multiparts.put = slow  # type: ignore[method-assign]
        upload: Any = node.open().writer(path("f"))()
        write(upload, DATA[: 12 * MIB])
        assert first.wait(PATIENCE)
        close(node, upload)
        refused(450, begin(node.open().writer(path("f"), offset=5 * MIB)))
        late.set()
    resume_to_the_end(bucket, DATA, (6 * MIB,))


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_two_uploads_to_one_name(bucket: Bucket, first_to_end: int) -> None:
    """If both are cut, at most one is kept, so that no client resumes that of another one."""
    files = Node(bucket).open()
    uploads: list[Any] = [files.writer(path("f"))(), files.writer(path("f"))()]
    for upload, data in zip(uploads, (DATA[: 6 * MIB], OTHER[: 12 * MIB]), strict=True):
        write(upload, data)
    uploads.pop(first_to_end).close()
    uploads[0].close()
    assert bucket.uploads() == ["alice/f"]
    at = result(files.size(path("f")))
    assert at == 5 * MIB
    store(files.writer(path("f"), offset=at), DATA[at:])
    assert bucket.get("alice/f") == DATA
    assert bucket.uploads() == []


def test_what_is_left_of_another_upload_goes_with_publication(bucket: Bucket) -> None:
    """The upload that began first is published: nothing is left of the other one, so APPE adds to the file."""
    files = Node(bucket).open()
    one: Any = files.writer(path("f"))()
    other: Any = files.writer(path("f"))()
    write(other, OTHER[: 12 * MIB])
    other.close()
    write(one, b"one")
    one.publish()
    one.close()
    assert bucket.uploads() == []
    store(files.writer(path("f"), append=True), b"two")
    assert bucket.get("alice/f") == b"onetwo"
