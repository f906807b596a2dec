"""Stores that answer differently from Amazon, or wrongly: no file is taken for what it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import Files
from ftpsd.storage.s3.calls.client import Objects
from ftpsd.storage.s3.calls.errors import StoreFailed
from tests.hostile import wait_until
from tests.s3 import Bucket
from tests.s3_proxy import Answer, Cut, Fault, FaultyProxy, Rewrite
from tests.test_files import begin, cut, names, path, read, refused, result, store
from tests.test_s3_files import DATA, MIB, Node

#: More requests than a test makes.
ALWAYS = 1000


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[FaultyProxy]:
    """A proxy before the server."""
    with FaultyProxy(bucket.server.port) as found:
        yield found


@pytest.fixture
def files(bucket: Bucket, proxy: FaultyProxy) -> Files:
    """The files of alice, through the proxy."""
    return Node(bucket, proxy.port).open()


def outcome(call: Callable[[], object]) -> object:
    """Return what a call returns, or the code of the reply that refuses it."""
    try:
        return call()
    except Refusal as error:
        return error.reply.code


#: How stores may write an ETag: without quotes in a header or in XML, or as a weak one.
_BARE = (rb'(?i)\r\n(etag): "(.*?)"', rb"\r\n\1: \2")
_BARE_XML = (rb"<ETag>(?:&quot;|\")(.*?)(?:&quot;|\")</ETag>", rb"<ETag>\1</ETag>")
_WEAK = (rb'(?i)\r\n(etag): "', rb'\r\n\1: W/"')


@pytest.mark.parametrize(("method", "pattern", "replacement"), [
    ("PUT", *_BARE), ("HEAD", *_BARE), ("PUT", *_BARE_XML), ("POST", *_BARE_XML), ("GET", *_WEAK),
])  # fmt: skip
def test_etags_without_quotes(
    bucket: Bucket, proxy: FaultyProxy, files: Files, method: str, pattern: bytes, replacement: bytes
) -> None:
    """A store that writes ETags with quotes in some answers only, or as weak ones: everything works."""
    proxy.spoil(method, "", Rewrite(pattern, replacement), times=ALWAYS)
    store(files.writer(path("small")), b"small")
    store(files.writer(path("large")), DATA)
    assert read(files, "large") == DATA
    store(files.writer(path("small"), append=True), b"er")
    store(files.writer(path("large"), append=True), b"more")
    cut(files.writer(path("resumed")), DATA[: 10 * MIB + 1])
    store(files.writer(path("resumed"), offset=10 * MIB), DATA[10 * MIB :])
    result(files.rename(path("small"), path("renamed")))
    assert bucket.contents() == {"alice/renamed": b"smaller", "alice/large": DATA + b"more", "alice/resumed": DATA}
    assert bucket.uploads() == []


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("fault", [
    Rewrite(rb"^$", b"", request=rb"(?i)\r\nrange: .*(?=\r)"),
    Rewrite(rb"(?i)\r\n(content-range): bytes \d+", rb"\r\n\1: bytes 7"),
    Rewrite(rb"(?i)\r\ncontent-range: .*(?=\r)", b""),
], ids=["all", "another", "silent"])  # fmt: skip
def test_a_store_that_ignores_ranges(
    bucket: Bucket, proxy: FaultyProxy, files: Files, fault: Rewrite, skip: int
) -> None:
    """A range that is answered with another one, or with the whole object, is never taken for the range."""
    bucket.put("alice/f", DATA)
    for first, last in ((0, None), (6 * MIB, 6 * MIB + 10), (1, None)):
        proxy.spoil("GET", "/alice/f", fault, times=ALWAYS, skip=skip)
        assert outcome(lambda: read(files, "f", first, last)) in (451, DATA[first:last])  # noqa: B023 - called at once
        proxy.heal()


@pytest.mark.parametrize(("fault", "stored"), [
    (Rewrite(rb"^$", b"", request=rb"(?i)\r\nrange: .*(?=\r)"), b"0123abc"),
    (Cut(response_after=2), b"0123456789"),
])  # fmt: skip
def test_the_beginning_of_an_upload_that_continues_an_old_file(
    bucket: Bucket, proxy: FaultyProxy, files: Files, fault: Fault, stored: bytes
) -> None:
    """A store that sends the whole old file, or is cut: the new file has as much of the old one as REST says."""
    bucket.put("alice/f", b"0123456789")
    proxy.spoil("GET", "/alice/f", fault, times=ALWAYS)
    found = outcome(lambda: store(files.writer(path("f"), offset=4), b"abc"))
    assert (found == 451) == (stored == b"0123456789")
    assert bucket.contents() == {"alice/f": stored}


def test_a_store_without_if_match(bucket: Bucket, proxy: FaultyProxy, files: Files) -> None:
    """A store that ignores If-Match sends the new object: its ETag tells, and the client gets no mixture."""
    bucket.put("alice/f", DATA)
    changed = Rewrite(rb"(?i)\r\n(etag): .*(?=\r)", rb'\r\n\1: "other"')
    proxy.spoil("GET", "/alice/f", changed, times=ALWAYS, skip=1)
    refused(426, lambda: read(files, "f"))


@pytest.mark.parametrize("act", [
    lambda objects: objects.open("alice/f", 0, 9),
    lambda objects: objects.get("alice/f", 0, 9, objects.head("alice/f").etag),
], ids=["open", "get"])  # fmt: skip
def test_the_body_of_an_answer_that_is_refused(
    bucket: Bucket, proxy: FaultyProxy, act: Callable[[Objects], object]
) -> None:
    """It is closed with its connection, also while somebody has the error."""
    bucket.put("alice/f", DATA)
    proxy.spoil("GET", "/alice/f", Rewrite(rb"(?i)\r\netag: .*(?=\r)", b""))
    node = Node(bucket, proxy.port)
    with pytest.raises(StoreFailed) as caught:
        act(node.store.objects)
    wait_until(lambda: not proxy.connected, "the connection is closed")
    assert caught.value.why == "an answer has no ETag"


@pytest.mark.parametrize(("method", "target", "act"), [
    ("GET", "list-type=2", lambda files: names(files, "d")),
    ("GET", "list-type=2", lambda files: result(files.remove_directory(path("d")))),
    ("GET", "list-type=2", lambda files: result(files.remove_tree(path("d")))),
    ("POST", "delete", lambda files: result(files.remove_tree(path("d")))),
    ("GET", "uploads", lambda files: names(files, "d")),
    ("POST", "uploads", lambda files: store(files.writer(path("new")), DATA)),
    ("POST", "uploadId", lambda files: store(files.writer(path("new")), DATA)),
    ("PUT", "renamed", lambda files: result(files.rename(path("d/f"), path("renamed")))),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_an_error_in_any_answer_with_status_200(
    bucket: Bucket, proxy: FaultyProxy, files: Files, method: str, target: str, act: Callable[[Files], object]
) -> None:
    """It is an error: no listing is taken for an empty one, and nothing for deleted."""
    bucket.put_many({"alice/d/": b"", "alice/d/f": b"1"})
    proxy.spoil(method, target, Answer(200, "InternalError"), times=ALWAYS)
    assert outcome(lambda: act(files)) == 451
    assert bucket.contents() == {"alice/d/f": b"1"}
    assert "alice/d/" in bucket.all_keys()


@pytest.mark.parametrize("body", [b"", b"<html><body>Please log in.</body></html>"], ids=["empty", "another"])
@pytest.mark.parametrize(("method", "target", "act"), [
    ("GET", "list-type=2", lambda files: names(files, "d")),
    ("GET", "list-type=2", lambda files: result(files.require_directory(path("d")))),
    ("POST", "delete", lambda files: result(files.remove_tree(path("d")))),
    ("GET", "uploads", lambda files: names(files, "d")),
    ("GET", "uploadId", lambda files: result(files.size(path("cut")))),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_another_text_in_place_of_an_answer(
    bucket: Bucket,
    proxy: FaultyProxy,
    files: Files,
    method: str,
    target: str,
    act: Callable[[Files], object],
    body: bytes,
) -> None:
    """What a proxy answers with the status 200 in place of the store is not taken for an empty listing: 451.

    A store may answer nothing if all objects were deleted.
    """
    bucket.put_many({"alice/d/": b"", "alice/d/f": b"1"})
    cut(files.writer(path("cut")), DATA[: 10 * MIB + 1])
    proxy.spoil(method, target, Rewrite(rb"(?s)^<\?xml.*", body), times=ALWAYS)
    assert outcome(lambda: act(files)) == (451 if body or method != "POST" else None)


#: What makes the last page of a listing one that others follow.
_LAST = rb"<IsTruncated>(?i:false)</IsTruncated>"


@pytest.mark.parametrize(("method", "target", "pattern", "replacement"), [
    ("HEAD", "", rb"(?i)\r\netag: .*(?=\r)", b""),
    ("GET", "/alice/d/f", rb"(?i)\r\netag: .*(?=\r)", b""),
    ("GET", "list-type=2", rb"<(Key)>.*?</\1>", b""),
    ("GET", "list-type=2", rb"<(Size)>.*?</\1>", b""),
    ("GET", "uploads", rb"<(UploadId)>.*?</\1>", b""),
    ("GET", "uploadId", rb"<(PartNumber)>.*?</\1>", b""),
    ("GET", "list-type=2", _LAST, b"<IsTruncated>true</IsTruncated>"),
    ("GET", "uploadId", rb"(?s)<NextPartNumberMarker>.*?</IsTruncated>",
     b"<NextPartNumberMarker>0</NextPartNumberMarker><IsTruncated>true</IsTruncated>"),
    ("GET", "uploads", _LAST, b"<IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>"),
])  # fmt: skip
def test_answers_that_no_store_may_give(
    bucket: Bucket, proxy: FaultyProxy, files: Files, method: str, target: str, pattern: bytes, replacement: bytes
) -> None:
    """A field is missing, or the pages of a listing have no end: 451, or the answer is right all the same."""
    bucket.put("alice/d/f", DATA)
    cut(files.writer(path("d/cut")), DATA[: 10 * MIB + 1])
    right = [["cut", "f"], DATA, DATA, 10 * MIB]
    proxy.spoil(method, target, Rewrite(pattern, replacement), times=ALWAYS)
    found = [outcome(call) for call in (
        lambda: names(files, "d"),
        lambda: read(files, "d/f"),
        lambda: b"".join(begin(files.reader(path("d/f"), 0, None, "SHA-256"))()),
        lambda: result(files.size(path("d/cut"))),
    )]  # fmt: skip
    assert 451 in found
    assert all(each in (451, expected) for each, expected in zip(found, right, strict=True))
