"""Files in a store, beyond what all storages promise (`tests/test_files.py`): parts, other nodes, and what goes wrong.

The store has threads that are direct calls; the server is real, and demands parts of 5 MiB.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from twisted.internet.task import Clock

from ftpsd.config.sections.storage import ConfiguredStore, Credentials, S3Storage
from ftpsd.config.settings import Quantity, QuotaSettings, UserSettings
from ftpsd.limits.local_home_counts import LocalHomeCounts
from ftpsd.outbox.evidence import Lost, Undecidable
from ftpsd.protocol.parsing import ListRequest
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import Files
from ftpsd.storage.quota import Quotas
from ftpsd.storage.s3.calls.memory import STEP, Memory
from ftpsd.storage.s3.calls.tasks import Submit
from ftpsd.storage.s3.files import S3Backend
from ftpsd.storage.s3.measure import StoreMeter
from ftpsd.storage.s3.store import S3Store
from ftpsd.storage.s3.uploads.collecting import Collector
from ftpsd.storage.s3.uploads.evidence import gone, published, was_made
from ftpsd.storage.s3.uploads.parts import COPY_MARKER, MARKER, Parts, Sending, part_size
from ftpsd.storage.s3.uploads.sweeper import sweep
from tests.inprocess import DirectCalls, run
from tests.s3 import KEY_ID, SECRET_KEY, Bucket
from tests.s3_proxy import Answer, Cut, FaultyProxy
from tests.test_files import SESSION, Person, begin, cut, entry, names, path, read, refused, result, send, store

MIB = 1 << 20

#: What is sent: no two places of it are alike.
DATA = os.urandom(1 << 16) * 16 * 13


class Node:
    """A node of ftpsd with a store, and the files of alice there."""

    def __init__(
        self, bucket: Bucket, port: int | None = None, memory: int = 64 * MIB, rename_directories: int = 0
    ) -> None:
        settings = S3Storage(
            type="s3",
            bucket=bucket.name,
            endpoint=f"http://127.0.0.1:{port or bucket.server.port}",
            region="us-east-1",
            credentials=Credentials(access_key_id=KEY_ID),
            part_size=Quantity(5 * MIB),
            memory=Quantity(memory),
            rename_directories=rename_directories,
        )
        calls: Any = DirectCalls()
        reactor: Any = Clock()
        self.store = S3Store(ConfiguredStore("archive", settings, SECRET_KEY), reactor, threads=calls)
        meter = StoreMeter(lambda home: (self.store.objects, self.store.cut, self.store.prefix(home)))
        self.backend = S3Backend(self.store, Quotas(reactor, calls, meter, LocalHomeCounts()))

    def open(self, **settings: Any) -> Files:
        """Return the files of a session."""
        return result(self.backend.open(Person("alice", UserSettings(home="s3:archive/alice", **settings)), SESSION))


@pytest.fixture
def node(bucket: Bucket) -> Node:
    """A node, without faults between it and the server."""
    return Node(bucket)


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[FaultyProxy]:
    """A proxy before the server."""
    with FaultyProxy(bucket.server.port) as found:
        yield found


# --- parts -----------------------------------------------------------------------------------------------


def test_parts_suffice_for_the_largest_object() -> None:
    """10,000 parts have 5 TiB, and those of the first 2 GiB have one size."""
    for least in (5 * MIB, 8 * MIB, 5 << 30):
        sizes = [part_size(number, least, 2 << 30) for number in range(1, MARKER - 1)]
        assert sum(sizes) >= 5 << 40
        assert sizes[:500] == [least] * 500
    for memory, largest in ((512 * MIB, 1.9), (1536 * MIB, 5)):  # docs/storage.md, key `memory`
        assert sum(part_size(number, 8 * MIB, memory // 2) for number in range(1, MARKER - 1)) >= largest * (1 << 40)


def test_a_large_file_is_sent_in_parts(node: Node, bucket: Bucket) -> None:
    """A large file becomes one object with the bytes sent; its last part may be small, and no upload stays open."""
    files = node.open()
    store(files.writer(path("f")), DATA)
    assert bucket.get("alice/f") == DATA == read(files, "f")
    assert bucket.uploads() == []
    assert read(files, "f", 6 * MIB, 6 * MIB + 10) == DATA[6 * MIB : 6 * MIB + 10]
    store(files.writer(path("exact")), DATA[: 10 * MIB])
    assert bucket.get("alice/exact") == DATA[: 10 * MIB]


def test_a_file_of_too_many_parts(node: Node, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 552, and nothing of it is kept, since nobody could complete it; a file of as many as possible is stored."""
    monkeypatch.setattr("ftpsd.storage.s3.uploads.parts.COPY_MARKER", 3)
    files = node.open()
    store(files.writer(path("f")), DATA)
    refused(552, lambda: store(files.writer(path("f")), DATA * 2))
    assert bucket.contents() == {"alice/f": DATA}
    assert bucket.uploads() == []
    assert node.store.memory.held == 0


def test_an_upload_is_resumed_on_another_node(node: Node, bucket: Bucket) -> None:
    """SIZE and the 554 sentence tell where the last part ends; nothing is visible in the bucket before the end."""
    cut(node.open().writer(path("f")), DATA[: 12 * MIB])
    assert bucket.all_keys() == []
    other = Node(bucket).open()
    assert result(other.size(path("f"))) == 10 * MIB
    assert entry(other, "f").incomplete
    with pytest.raises(Refusal) as caught:
        begin(other.writer(path("f"), offset=12 * MIB))()
    assert caught.value.reply.code == 554
    assert str(10 * MIB) in caught.value.reply.text
    store(other.writer(path("f"), offset=10 * MIB), DATA[10 * MIB :])
    assert bucket.get("alice/f") == DATA
    assert bucket.uploads() == []


def test_appending_resumes_and_copies(node: Node, bucket: Bucket) -> None:
    """APPE continues an upload that was cut; to a file it adds, whether that is smaller than a part or not."""
    files = node.open()
    cut(files.writer(path("f")), DATA[: 6 * MIB])
    store(files.writer(path("f"), append=True), DATA[5 * MIB :])
    assert bucket.get("alice/f") == DATA
    store(files.writer(path("f"), append=True), b"more")
    assert bucket.get("alice/f") == DATA + b"more"
    store(files.writer(path("small")), b"one,")
    store(files.writer(path("small"), append=True), b"two")
    assert bucket.get("alice/small") == b"one,two"


def test_less_than_a_part_is_not_kept(node: Node, bucket: Bucket) -> None:
    """An upload that is cut before 5 MiB leaves nothing."""
    files = node.open()
    cut(files.writer(path("f")), DATA[: 4 * MIB])
    assert bucket.uploads() == [] == names(files)


def test_uploads_of_other_programs_are_left_alone(node: Node, bucket: Bucket) -> None:
    """Uploads of other programs are not resumed, listed, counted, swept, or removed with the name."""
    client = bucket.client
    foreign = client.create_multipart_upload(Bucket=bucket.name, Key="alice/f")["UploadId"]
    client.upload_part(Bucket=bucket.name, Key="alice/f", UploadId=foreign, PartNumber=1, Body=DATA[: 5 * MIB])
    files = node.open()
    refused(554, begin(files.writer(path("f"), offset=5 * MIB)))
    assert names(files) == []
    store(files.writer(path("f")), b"ours")
    result(files.remove(path("f")))
    run(sweep(node.store, 1e12, lambda directory, measure: nullcontext()))
    assert bucket.uploads() == ["alice/f"]


def test_old_uploads_are_swept(node: Node, bucket: Bucket) -> None:
    """Uploads whose last part is older than `uploads.keep_parts` go; younger and running ones stay."""
    files = node.open()
    cut(files.writer(path("f")), DATA[: 6 * MIB])
    run(sweep(node.store, 0.0, lambda directory, measure: nullcontext()))
    assert bucket.uploads() == ["alice/f"]
    running = begin(files.writer(path("g")))()
    send(running, DATA[: 6 * MIB])
    run(sweep(node.store, 1e12, lambda directory, measure: nullcontext()))
    assert bucket.uploads() == ["alice/g"]
    running.close()


def test_what_was_killed_is_swept(swift_bucket: Bucket) -> None:
    """An upload that was killed before its first part goes after a day, the copy of a rename as uploads do.

    In moto, all uploads were begun in 2010.
    """
    bucket, node = swift_bucket, Node(swift_bucket)
    client, now = bucket.client, time.time()

    def sweep_at(seconds: float, keep: float) -> list[str]:
        run(sweep(node.store, now + seconds - keep, lambda directory, measure: nullcontext(), now + seconds))
        return bucket.uploads()

    client.create_multipart_upload(Bucket=bucket.name, Key="alice/empty")
    copy = client.create_multipart_upload(Bucket=bucket.name, Key="alice/copy")["UploadId"]
    for number, data in ((1, DATA[: 5 * MIB]), (COPY_MARKER, b"")):
        client.upload_part(Bucket=bucket.name, Key="alice/copy", UploadId=copy, PartNumber=number, Body=data)
    node.store.cut.running.claim(copy, (0, 0))  # what runs is left alone
    assert sweep_at(0, -10) == ["alice/copy", "alice/empty"]
    node.store.cut.running.release(copy)
    assert sweep_at(0, 600) == ["alice/copy", "alice/empty"]
    assert sweep_at(1000, 600) == ["alice/empty"]
    assert sweep_at(87_000, 90_000) == ["alice/empty"]
    assert sweep_at(87_000, 600) == []


@pytest.mark.parametrize("what", ["STOR", "sweep", "rename", "DELE", "RMDA"])
def test_an_upload_that_runs_in_another_process(bucket: Bucket, node: Node, what: str) -> None:
    """The upload that is published last has the name; only a client that removes the name removes a running upload."""
    files, other = node.open(), Node(bucket)
    bucket.put_many({"alice/d/f": b"old", "alice/d/g": b"other"})
    running = begin(files.writer(path("d/f")))()
    send(running, DATA[: 12 * MIB])
    others = other.open()
    if what == "STOR":
        store(others.writer(path("d/f")), b"of another client")
    elif what == "sweep":
        run(sweep(other.store, 1e12, lambda directory, measure: nullcontext()))
    elif what == "rename":
        result(others.rename(path("d/g"), path("d/f")))
    elif what == "DELE":
        result(others.remove(path("d/f")))
    else:
        result(others.remove_tree(path("d")))
    running.write(DATA[12 * MIB :])
    if what in ("DELE", "RMDA"):
        with pytest.raises(Refusal):
            running.publish()
    else:
        running.publish()
        assert bucket.get("alice/d/f") == DATA
    running.close()
    assert bucket.uploads() == []


def test_what_has_ended_here_is_removed(bucket: Bucket, node: Node) -> None:
    """STOR without a restart offset removes what an upload of this process has left, however young that is."""
    files = node.open()
    cut(files.writer(path("f")), DATA[: 6 * MIB])
    store(files.writer(path("f")), b"new")
    assert bucket.uploads() == []


def test_one_name_costs_no_look_at_others(bucket: Bucket, proxy: FaultyProxy) -> None:
    """Open uploads of names that begin alike are not looked at."""
    for number in range(30):
        bucket.client.create_multipart_upload(Bucket=bucket.name, Key=f"alice/f{number}")
    files = Node(bucket, proxy.port).open()
    before = len(proxy.requests)
    store(files.writer(path("f")), b"x")
    assert len(proxy.requests) - before < 12


# --- memory ----------------------------------------------------------------------------------------------


def test_memory_is_given_back(node: Node) -> None:
    """Uploads and downloads hold nothing when they have ended, however they end."""
    files = node.open()
    store(files.writer(path("f")), DATA)
    cut(files.writer(path("g")), DATA[: 7 * MIB])
    source = begin(files.reader(path("f"), 0, None))()
    next(iter(source))
    source.close()
    read(files, "f")
    assert node.store.memory.held == 0


def test_no_user_takes_all_memory() -> None:
    """A user alone gets half of it, and each further one half of the rest, whatever the others hold."""
    memory = Memory(1024)
    for user, share in (("alice", 512), ("bob", 256), ("carol", 128), ("dave", 64)):
        assert memory.take(user, share)
        assert not memory.take(user, 1)
    memory.give("alice", 512)
    assert memory.take("dave", 64)
    memory.give("bob", 256)
    memory.give("carol", 128)
    memory.give("dave", 128)
    assert memory.held == 0
    assert not memory.wait("alice", 513, 0.0)


def _collectors(node: Node, count: int, memory: int, submit: Submit) -> list[Collector]:
    sending = Sending(node.store.multiparts, Memory(memory), submit, "alice", 4)
    return [Collector(Parts(sending, f"alice/{number}"), sending, 5 * MIB) for number in range(count)]


def test_uploads_do_not_wait_for_each_other(node: Node) -> None:
    """Of many uploads that hold some of a part each, one at a time completes its part; the memory is bounded."""
    collectors = _collectors(node, 20, 32 * MIB, lambda job: job())
    waiting = dict.fromkeys(collectors, 7 * MIB)
    while waiting:
        before = dict(waiting)
        for each in before:
            if not each.pending():
                each.write(bytes(STEP))
                waiting[each] -= STEP
            if not waiting[each]:
                each.finish()
                each.release()
                del waiting[each]
        assert waiting != before, "all wait"


def test_writes_do_not_block(node: Node) -> None:
    """While a store takes no parts, an upload waits as `pending` says, and never in a thread of the daemon."""
    jobs = list[Callable[[], object]]()
    (collector,) = _collectors(node, 1, 512 * MIB, jobs.append)
    piece = bytes(STEP - 1234)
    began = time.monotonic()
    while not collector.pending():
        collector.write(piece)
    assert 24 * MIB < collector.position <= 25 * MIB
    assert len(jobs) == 4
    for each in jobs:
        each()
    assert not collector.pending()
    assert time.monotonic() - began < 60
    collector.release()


# --- faults ----------------------------------------------------------------------------------------------


def test_an_object_that_is_replaced_while_it_is_read(bucket: Bucket, node: Node) -> None:
    """The download ends with 426: it is never a mixture of two objects."""
    files = node.open()
    store(files.writer(path("f")), DATA)
    source = begin(files.reader(path("f"), 0, None))()
    pieces = iter(source)
    got = bytes(next(pieces))
    bucket.put("alice/f", bytes(len(DATA)))
    with pytest.raises(Refusal) as caught:
        for piece in pieces:
            got += bytes(piece)
    assert caught.value.reply.code == 426
    assert DATA.startswith(got)
    source.close()


def test_a_request_that_breaks_is_resumed(bucket: Bucket, proxy: FaultyProxy) -> None:
    """A download continues at the byte at which the connection was cut."""
    bucket.put("alice/f", DATA)
    proxy.spoil("GET", "alice/f", Cut(response_after=1_000_000), times=2)
    assert read(Node(bucket, proxy.port).open(), "f") == DATA
    assert len(proxy.spoiled) == 2


def test_a_part_is_repeated(bucket: Bucket, proxy: FaultyProxy) -> None:
    """A part that the store refuses with 503 or 500, or that arrives changed, is sent again."""
    files = Node(bucket, proxy.port).open()
    proxy.spoil("PUT", "partNumber=1", Answer(503, "SlowDown"))
    proxy.spoil("PUT", "partNumber=2", Answer(500, "InternalError", after=100_000))
    store(files.writer(path("f")), DATA)
    assert bucket.get("alice/f") == DATA
    assert len(proxy.spoiled) == 2


def test_an_error_in_a_successful_answer(bucket: Bucket, proxy: FaultyProxy) -> None:
    """CompleteMultipartUpload that answers 200 with an error inside is no success, and is repeated."""
    files = Node(bucket, proxy.port).open()
    proxy.spoil("POST", "uploadId=", Answer(200, "InternalError"))
    store(files.writer(path("f")), DATA)
    assert bucket.get("alice/f") == DATA


def test_a_lost_answer_to_the_last_request(bucket: Bucket, proxy: FaultyProxy) -> None:
    """If the store has published and the answer is lost, the upload is successful: the object has its ETag."""
    files = Node(bucket, proxy.port).open()
    proxy.spoil("POST", "uploadId=", Cut(response_after=0), times=9)
    store(files.writer(path("f")), DATA)
    assert bucket.get("alice/f") == DATA


def test_a_store_that_fails_keeps_the_old_object(bucket: Bucket, proxy: FaultyProxy) -> None:
    """An upload that cannot be published gets 451, and the name has the old object; it can be resumed later."""
    bucket.put("alice/f", b"old")
    files = Node(bucket, proxy.port).open()
    proxy.spoil("POST", "uploadId=", Answer(500, "InternalError"), times=9)
    refused(451, lambda: store(files.writer(path("f")), DATA))
    assert bucket.get("alice/f") == b"old"
    proxy.heal()
    store(files.writer(path("f"), offset=10 * MIB), DATA[10 * MIB :])
    assert bucket.get("alice/f") == DATA


def test_wrong_answers_do_not_pass(bucket: Bucket, proxy: FaultyProxy) -> None:
    """A missing bucket, a wrong key and a wrong clock give 451; too many requests give 450."""
    files = Node(bucket, proxy.port).open()
    for status, code, reply in (
        (404, "NoSuchBucket", 451),
        (403, "AccessDenied", 451),
        (403, "RequestTimeTooSkewed", 451),
        (503, "SlowDown", 450),
    ):
        proxy.spoil("GET", "list-type=2", Answer(status, code), times=9)
        refused(reply, begin(files.listing(path("d"), _request(), lambda each: each.name)))
        proxy.heal()


def _request() -> ListRequest:
    return ListRequest(path="")


# --- names -----------------------------------------------------------------------------------------------


def test_names_that_a_path_cannot_have(bucket: Bucket, node: Node) -> None:
    """Keys with empty names, `.` and `..` are not shown and lead nowhere; their directory is not empty."""
    bucket.put_many({f"alice/d/{name}": b"x" for name in ("", "/x", "./y", "../z", "a//b", "ok", "c\rd")})
    bucket.put("other", b"secret")
    files = node.open()
    assert names(files, "d") == ["a", "c?d", "ok"] or names(files, "d") == ["a", "c\rd", "ok"]
    assert names(files, "d/a") == []
    refused(550, lambda: _raise(files.reader(path("d/../../other"), 0, None)))
    result(files.remove_tree(path("d")))
    assert bucket.all_keys() == ["other"]


def test_a_file_and_a_directory_of_one_name(bucket: Bucket, node: Node) -> None:
    """Other programs may make both: both are listed, and each command means one of them (docs/storage.md)."""
    bucket.put_many({"alice/both": b"file", "alice/both/x": b"1", "alice/other": b"2"})
    files = node.open()
    assert names(files) == ["both", "both", "other"]
    assert names(files, "both") == ["x"]
    assert names(files, "other") == ["other"]
    assert (read(files, "both"), read(files, "both/x")) == (b"file", b"1")
    assert (entry(files, "both").is_directory, result(files.size(path("both")))) == (False, 4)
    result(files.require_directory(path("both")))
    store(files.writer(path("both"), append=True), b"s")
    store(files.writer(path("both/y")), b"3")
    result(files.rename(path("both"), path("renamed")))
    store(files.writer(path("both/y")), b"4")
    assert bucket.contents() == {
        "alice/both/x": b"1", "alice/both/y": b"4", "alice/other": b"2", "alice/renamed": b"files"
    }  # fmt: skip
    bucket.put("alice/both", b"file")
    result(files.remove(path("both")))
    assert names(files, "both") == ["x", "y"]
    bucket.put("alice/both", b"file")
    result(files.remove_tree(path("both")))
    assert bucket.contents() == {"alice/both": b"file", "alice/other": b"2", "alice/renamed": b"files"}


def test_names_that_xml_cannot_have(each_bucket: Bucket) -> None:
    """A tree with control characters in its keys is removed; what the store does not delete is reported.

    The reply is 550 if the store does not permit that, and 451 if the request fails: then a later attempt may work.
    """
    keys = [f"alice/d/{name}" for name in ("a", "\x01", "b\x1f\ufffe", "c&<\r\t", "\U0001f600")]
    each_bucket.put_many(dict.fromkeys(keys, b"x"))
    with FaultyProxy(each_bucket.server.port) as proxy:
        files = Node(each_bucket, proxy.port).open()
        proxy.spoil("DELETE", "alice/d/b", Answer(403, "AccessDenied"))
        refused(550, lambda: result(files.remove_tree(path("d"))))
        assert each_bucket.all_keys() == [keys[2]]
        proxy.spoil("DELETE", "alice/d/b", Answer(400, "InvalidRequest"))
        refused(451, lambda: result(files.remove_tree(path("d"))))
        result(files.remove_tree(path("d")))
    assert each_bucket.all_keys() == []


def test_names_that_xml_cannot_have_take_steps(bucket: Bucket, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each object that needs a request of its own is a step: others get the thread in between."""
    bucket.put_many({f"alice/d/{number}\x01": b"x" for number in range(20)})
    files, steps = node.open(), 0

    def counted(job: Any) -> Any:
        nonlocal steps
        for _ in job:
            steps += 1

    monkeypatch.setattr("tests.inprocess.run", counted)
    result(files.remove_tree(path("d")))
    assert bucket.all_keys("alice/d/") == []
    assert steps >= 20


def _raise(opening: Any) -> None:
    try:
        begin(opening)()
    except OSError as error:
        raise Refusal(550, str(error)) from None


# --- events ----------------------------------------------------------------------------------------------


def test_evidence_of_an_upload(bucket: Bucket, node: Node) -> None:
    """After a crash, the ETag tells whether an upload was published; another object leaves it open."""
    objects, uploads = node.store.objects, node.store.cut
    bucket.put("alice/f", b"old")
    old = objects.head("alice/f")
    etag = "9e925e9341b490bfd3b4c4ca3b0c1ef2"  # of b"this"
    proof = published("archive", "alice/f", etag, 4, old, "")
    assert not was_made(objects, uploads, proof)
    bucket.put("alice/f", b"this")
    assert was_made(objects, uploads, proof)
    bucket.put("alice/f", b"another")
    with pytest.raises(Lost):
        was_made(objects, uploads, proof)


def test_evidence_of_a_removal(bucket: Bucket, node: Node, proxy: FaultyProxy) -> None:
    """An old name that is gone, or has another object, shows that it was removed; a store that fails shows nothing."""
    objects, uploads = node.store.objects, node.store.cut
    bucket.put("alice/f", b"old")
    found = objects.head("alice/f")
    assert found is not None
    proof = gone("archive", "alice/f", found.etag)
    assert not was_made(objects, uploads, proof)
    bucket.client.delete_object(Bucket=bucket.name, Key="alice/f")
    assert was_made(objects, uploads, proof)
    proxy.spoil("HEAD", "alice/f", Answer(503, "SlowDown"), times=9)
    with pytest.raises(Undecidable):
        was_made(Node(bucket, proxy.port).store.objects, uploads, proof)


# --- quotas ----------------------------------------------------------------------------------------------


def test_only_what_was_deleted_is_free(bucket: Bucket, proxy: FaultyProxy) -> None:
    """A store that deletes some objects, or none, and uploads that it does not remove, free no more than has gone."""
    node = Node(bucket, proxy.port)
    node.backend._quotas.keep({"s3:archive/alice"}, {"s3:archive/alice"})
    files = node.open(quota=QuotaSettings(bytes=Quantity(20 * MIB)))
    result(files.make_directory(path("d")))
    for name in ("d/a", "d/b"):
        store(files.writer(path(name)), DATA[:MIB])
    cut(files.writer(path("d/cut")), DATA[: 6 * MIB])

    def used() -> int:
        usage = result(files.usage(path("")))
        assert usage is not None
        return usage.bytes

    assert used() == 7 * MIB
    for method, pattern, left in (("DELETE", "uploadId", 7), ("POST", "delete", 2)):
        proxy.spoil(method, pattern, Answer(403, "AccessDenied"), times=9)
        for _ in range(2):
            refused(451, lambda: result(files.remove_tree(path("d"))))
        assert used() == left * MIB
        proxy.heal()
    result(files.remove_tree(path("d")))
    assert used() == 0
    assert bucket.contents() == {}
