"""Stores that fail: docs/reliability.md has a row for each test. A proxy before a real server causes the faults."""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from tests.daemon import Daemon
from tests.ftpclient import FtpClient, secured
from tests.hostile import open_transfer, withstands
from tests.s3 import Bucket
from tests.s3_proxy import Answer, Corrupt, Cut, Delay, Fault, FaultyProxy, Hang
from tests.store_daemon import LARGE, MIB, Make, store_daemon

#: What matches each kind of request of an upload.
PUT, PART = ("PUT", "/alice/f$"), ("PUT", "partNumber=2(&|$)")
BEGIN, COMPLETE = ("POST", "uploads"), ("POST", "uploadId=")

#: Parts are small, so that there are several.
SMALL_PARTS = {"part_size": "5M", "parallel": 2, "memory": "40M"}
BIG = LARGE[: 12 * MIB]


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[FaultyProxy]:
    """A proxy before the server of the bucket."""
    with FaultyProxy(bucket.server.port) as running:
        yield running


def store(client: FtpClient, line: str, content: bytes) -> str:
    """Upload, and return the final reply. A server that refuses sends no close_notify."""
    plain = client.connect_data()
    reply = client.command(line)
    if not reply.startswith("150"):
        plain.close()
        return reply
    data = client.secure_data(plain)
    try:
        data.sendall(content)
        data.unwrap().close()
    except OSError:
        data.close()
    return client.reply()


def fetch(client: FtpClient, line: str) -> tuple[str, bytes]:
    """Download, and return the final reply with what came."""
    plain = client.connect_data()
    reply = client.command(line)
    if not reply.startswith("150"):
        plain.close()
        return reply, b""
    data = client.secure_data(plain)
    found = b""
    try:
        while piece := data.recv(MIB):
            found += piece
    except OSError:
        pass
    data.close()
    return client.reply(), found


def whole_or_old(bucket: Bucket, reply: str, content: bytes, old: bytes | None) -> None:
    """Check that a name has the new object after 226, and else the old one, or none."""
    expected = content if reply.startswith("226") else old
    assert bucket.contents() == ({} if expected is None else {"alice/f": expected}), reply


def test_a_store_that_is_unreachable_at_start(make_daemon: Make, bucket: Bucket, proxy: FaultyProxy) -> None:
    """The daemon starts; its users log in, and get 451 until the store is back."""
    proxy.stop()
    daemon = store_daemon(make_daemon, bucket, port=proxy.port)
    daemon.wait_for_log("the store archive cannot be used: ")
    with secured(daemon) as client:
        client.expect(451, "SIZE f")
        client.expect(451, "MKD d")
        assert store(client, "STOR f", b"1").startswith("451")
        proxy.start()
        assert store(client, "STOR f", b"1").startswith("226")
    daemon.wait_for_log("the store archive works again")
    assert "Traceback" not in daemon.log


def test_a_store_that_becomes_unreachable(make_daemon: Make, bucket: Bucket, proxy: FaultyProxy) -> None:
    """Commands and transfers get 451, sessions continue, and everything works again when the store is back."""
    bucket.put("alice/old", BIG)
    daemon = store_daemon(make_daemon, bucket, port=proxy.port, **SMALL_PARTS)
    with withstands(daemon), secured(daemon) as client:
        client.expect(213, "SIZE old")
        data = open_transfer(client, "STOR f")
        data.sendall(BIG)
        proxy.stop()
        assert isinstance(data, ssl.SSLSocket)
        try:
            data.unwrap().close()
        except OSError:
            data.close()
        assert client.reply()[:3] in ("451", "426")
        client.expect(451, "SIZE old")
        client.expect(200, "NOOP")
        proxy.start()
        assert client.download("RETR old") == BIG
        assert store(client, "STOR f", BIG).startswith("226")
    assert bucket.contents() == {"alice/old": BIG, "alice/f": BIG}


@pytest.mark.parametrize(("where", "fault"), [
    (PUT, Answer(503, "SlowDown")),
    (PART, Answer(503, "SlowDown")),
    (BEGIN, Answer(503, "SlowDown")),
    (COMPLETE, Answer(503, "SlowDown")),
    (PART, Answer(500, "InternalError", after=MIB)),
    (PUT, Answer(500, "InternalError", after=100)),
    (COMPLETE, Answer(200, "InternalError")),
    (COMPLETE, Cut(response_after=0)),
    (PUT, Cut(response_after=0)),
    (PART, Cut(request_after=MIB)),
    (PART, Cut(response_after=0)),
    (PART, Delay(1.0)),
], ids=lambda value: str(value)[:60])  # fmt: skip
def test_a_request_of_an_upload_that_fails_once(
    make_daemon: Make, bucket: Bucket, proxy: FaultyProxy, where: tuple[str, str], fault: Fault
) -> None:
    """SlowDown, 500 in the middle of a part, 200 with an error inside, lost answers: the request is made again."""
    daemon = store_daemon(make_daemon, bucket, port=proxy.port, **SMALL_PARTS)
    proxy.spoil(*where, fault)
    content = BIG[:1000] if where is PUT else BIG
    with withstands(daemon), secured(daemon) as client:
        reply = store(client, "STOR f", content)
    assert proxy.spoiled == [fault]
    assert reply.startswith("226"), reply
    whole_or_old(bucket, reply, content, None)


@pytest.mark.parametrize(("where", "status", "code", "expected"), [
    (PART, 503, "SlowDown", "450"),
    (PART, 500, "InternalError", "451"),
    (COMPLETE, 200, "InternalError", "451"),
    (BEGIN, 403, "AccessDenied", "451"),
    (PUT, 403, "AccessDenied", "451"),
    (PUT, 404, "NoSuchBucket", "451"),
    (PUT, 403, "RequestTimeTooSkewed", "451"),
])  # fmt: skip
def test_an_upload_that_the_store_refuses(
    make_daemon: Make, bucket: Bucket, proxy: FaultyProxy, where: tuple[str, str], status: int, code: str, expected: str
) -> None:
    """A store that stays busy gives 450; credentials, clock, bucket and other faults 451. Nothing is published."""
    bucket.put("alice/f", b"old")
    daemon = store_daemon(make_daemon, bucket, port=proxy.port, **SMALL_PARTS)
    proxy.spoil(*where, Answer(status, code), times=1000)
    with withstands(daemon), secured(daemon) as client:
        reply = store(client, "STOR f", BIG[:1000] if where is PUT else BIG)
        assert reply.startswith(expected), reply
        whole_or_old(bucket, reply, b"", b"old")
        proxy.heal()
        assert store(client, "STOR f", BIG).startswith("226")
    assert bucket.get("alice/f") == BIG
    daemon.wait_for_log(f"a request to the store archive has failed: .*({code}|an error without a code)")


def test_an_upload_that_is_damaged_on_the_way(make_daemon: Make, swift_bucket: Bucket) -> None:
    """The store compares each part with its checksum: a damaged one is never published."""
    with FaultyProxy(swift_bucket.server.port) as proxy:
        daemon = store_daemon(make_daemon, swift_bucket, port=proxy.port, **SMALL_PARTS)
        for where, content in ((PUT, BIG[:1000]), (PART, BIG)):
            proxy.spoil(*where, Corrupt(request_at=500))
            with withstands(daemon), secured(daemon) as client:
                reply = store(client, "STOR f", content)
            assert reply[:3] in ("226", "451"), reply
            whole_or_old(swift_bucket, reply, content, None)
            swift_bucket.client.delete_object(Bucket=swift_bucket.name, Key="alice/f")


@pytest.mark.parametrize("fault", [
    Cut(response_after=0), Cut(response_after=1_000_000), Answer(503, "SlowDown"), Delay(0.5), Delay(rate=3 * MIB),
], ids=str)  # fmt: skip
def test_a_download_that_breaks(make_daemon: Make, bucket: Bucket, proxy: FaultyProxy, fault: Fault) -> None:
    """A range that breaks is fetched again where it broke: the client gets the whole file."""
    bucket.put("alice/f", BIG)
    daemon = store_daemon(make_daemon, bucket, port=proxy.port, **SMALL_PARTS)
    proxy.spoil("GET", "/alice/f", fault, times=3)
    with withstands(daemon), secured(daemon) as client:
        assert client.download("RETR f") == BIG
    assert proxy.spoiled


def test_a_download_that_cannot_continue(make_daemon: Make, bucket: Bucket, proxy: FaultyProxy) -> None:
    """A store that goes away in the middle ends the download with 451 or 426, and what came is right."""
    bucket.put("alice/f", LARGE)
    daemon = store_daemon(make_daemon, bucket, port=proxy.port, **SMALL_PARTS)
    proxy.spoil("GET", "/alice/f", Answer(500, "InternalError"), times=1000, skip=2)
    with withstands(daemon), secured(daemon) as client:
        reply, found = fetch(client, "RETR f")
        assert reply[:3] in ("451", "426"), reply
        assert found == LARGE[: len(found)] and len(found) < len(LARGE)
        proxy.heal()
        client.expect(350, f"REST {len(found)}")
        assert client.download("RETR f") == LARGE[len(found) :]


def test_connections_that_are_cut_at_any_byte(make_daemon: Make, bucket: Bucket, proxy: FaultyProxy) -> None:
    """Whatever request is cut at whatever byte, an upload is whole or not there, and a download is right."""
    chance = random.Random(15)
    daemon = store_daemon(make_daemon, bucket, port=proxy.port, **SMALL_PARTS)
    old: bytes | None = None
    with withstands(daemon):
        for number in range(12):
            content = bytes([number]) + BIG[: chance.choice([50, 6 * MIB, len(BIG) - 1])]
            for _ in range(3):
                at = chance.randrange(len(content))
                cut = chance.choice([Cut(request_after=at), Cut(response_after=chance.randrange(200))])
                proxy.spoil(chance.choice(["PUT", "POST", "HEAD", "GET"]), "alice", cut, skip=chance.randrange(3))
            with secured(daemon) as client:
                reply = store(client, "STOR f", content)
                assert reply[:3] in ("226", "426", "450", "451"), reply
                whole_or_old(bucket, reply, content, old)
                old = bucket.contents().get("alice/f")
                if old is not None:
                    reply, found = fetch(client, "RETR f")
                    assert found == old if reply.startswith("226") else found == old[: len(found)], reply
            proxy.heal()


def test_a_store_that_does_not_answer(make_daemon: Make, bucket: Bucket, proxy: FaultyProxy) -> None:
    """A command gets 451 after `timeouts.stalled`; users with homes elsewhere are not delayed."""
    bucket.put("alice/f", b"1")
    users = {"alice": {"home": {"storage": "archive", "path": "alice"}}, "bob": {}}
    daemon = store_daemon(make_daemon, bucket, users, {"timeouts": {"stalled": 2}}, port=proxy.port)
    proxy.spoil("HEAD", "alice/f", Hang(), times=1000)
    with withstands_of(daemon, "bob"), secured(daemon) as client, secured(daemon, "bob") as bob:
        client.send("SIZE f")
        began = time.monotonic()
        for number in range(10):
            assert bob.upload(f"STOR {number}", b"data").startswith("226")
        assert time.monotonic() - began < 20
        assert client.reply().startswith("451")
        proxy.heal()
        client.expect(213, "SIZE f")


class withstands_of:
    """As `withstands`, for a daemon whose alice has no home that works."""

    def __init__(self, daemon: Daemon, user: str) -> None:
        self._daemon, self._user = daemon, user

    def __enter__(self) -> None:
        self._before = len(self._daemon.log)

    def __exit__(self, *_: object) -> None:
        with secured(self._daemon, self._user) as client:
            client.expect(200, "NOOP")
        assert "Traceback" not in self._daemon.log[self._before :]


def test_a_quota_that_cannot_be_counted(make_daemon: Make, bucket: Bucket, proxy: FaultyProxy) -> None:
    """The login to a home with a quota in a store that is down gets 451, which does not count as a failed login."""
    bucket.put("alice/f", b"123")
    users = {"alice": {"home": {"storage": "archive", "path": "alice"}, "quota": {"bytes": 1000}}}
    daemon = store_daemon(make_daemon, bucket, users, port=proxy.port)
    proxy.stop()
    client = FtpClient(daemon)
    client.start_tls()
    client.expect(331, "USER alice")
    client.expect(451, "PASS secret")
    proxy.start()
    with withstands(daemon), secured(daemon) as good:
        assert good.expect(213, "AVBL") == "213 997"
    client.socket.close()


def test_killed_during_uploads_to_a_store(make_daemon: Make, bucket: Bucket) -> None:
    """After SIGKILL at any moment each name has its old or its new object whole, and cut uploads are found again."""
    chance = random.Random(16)
    daemon = store_daemon(make_daemon, bucket, **SMALL_PARTS)
    old: dict[str, bytes] = {}
    for round_ in range(8):
        contents = {name: bytes([round_]) + BIG[: size * MIB] for name, size in (("small", 1), ("large", 11))}
        replies: dict[str, str] = {}

        def send(name: str, content: bytes, replies: dict[str, str] = replies) -> None:
            try:
                with secured(daemon) as client:
                    replies[name] = store(client, f"STOR {name}", content)
            except OSError:
                pass

        threads = [threading.Thread(target=send, args=each) for each in contents.items()]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.1, 2.5))
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait()
        for thread in threads:
            thread.join()
        found = bucket.contents()
        for name, content in contents.items():
            now = found.get(f"alice/{name}")
            if replies.get(name, "").startswith("226"):
                assert now == content
            assert now in (old.get(name), content), f"{name} in round {round_}"
            if now is not None:
                old[name] = now
        daemon.start()
    with withstands(daemon), secured(daemon) as client:
        for name, size in (("small", 1), ("large", 11)):
            content = b"\xff" + BIG[: size * MIB]
            assert store(client, f"STOR {name}", content).startswith("226")
            assert bucket.get(f"alice/{name}") == content
            client.expect(250, f"DELE {name}")
    assert bucket.contents() == {}
