"""A store that is slow, or does not answer at all: what other users see, and when a transfer counts as stalled."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

import pytest

from ftpsd.config.sections.storage import MOST_PARTS
from ftpsd.storage.s3.calls.progress import Outgoing, Progress
from tests.ftpclient import secured
from tests.hostile import withstands
from tests.s3 import Bucket
from tests.s3_proxy import Delay, FaultyProxy
from tests.store_daemon import HOME, LARGE, MIB, Make, store_daemon


def test_homes_are_counted_apart_from_those_on_the_disk(make_daemon: Make, bucket: Bucket) -> None:
    """While homes in a store that does not answer wait to be counted, users of the disk are served."""
    names = [f"u{number}" for number in range(6)]
    home = make_daemon(start=False).directory / "carol"
    home.mkdir()
    (home / "x").write_text("x")
    users = {name: {"home": HOME, "quota": {"bytes": "100M"}} for name in names}
    with socket.create_server(("127.0.0.1", 0)) as hole:
        daemon = store_daemon(make_daemon, bucket, {**users, "carol": {"home": str(home)}}, port=hole.getsockname()[1])

        def log_in(name: str) -> None:
            with suppress(Exception), secured(daemon, name):
                pass

        with secured(daemon, "carol") as client:
            threads = [threading.Thread(target=log_in, args=(name,), daemon=True) for name in names]
            for thread in threads:
                thread.start()
            time.sleep(1.0)
            began = time.monotonic()
            for _ in range(3):
                assert client.download("NLST").split() == [b"x"]
            assert time.monotonic() - began < 9
            daemon.stop()
            for thread in threads:
                thread.join(60)


def test_parts_that_the_store_takes_are_progress(make_daemon: Make, bucket: Bucket) -> None:
    """The client has sent all, and the store takes longer than `timeouts.stalled` for all that is left: 226."""
    with FaultyProxy(bucket.server.port) as proxy:
        settings = {"timeouts": {"stalled": 6}}
        daemon = store_daemon(make_daemon, bucket, None, settings, port=proxy.port, parallel=1)
        for number in (2, 3, 10000):
            proxy.spoil("PUT", f"partNumber={number}", Delay(4.0), times=9)
        with withstands(daemon), secured(daemon) as client:
            assert client.upload("STOR f", LARGE).startswith("226")
    assert bucket.get("alice/f") == LARGE


#: Seconds after which a transfer counts as stalled, and those for which the store works.
STALLED, LONGER = 3, 7.0


def test_a_slow_request_is_progress(make_daemon: Make, bucket: Bucket) -> None:
    """One request, of a part or of a small file, takes longer than `timeouts.stalled` while its bytes go out: 226."""
    with FaultyProxy(bucket.server.port) as proxy:
        settings = {"timeouts": {"stalled": STALLED}}
        daemon = store_daemon(make_daemon, bucket, None, settings, port=proxy.port, parallel=1)
        slow = Delay(request_rate=int(len(LARGE[: 8 * MIB]) / LONGER))
        proxy.spoil("PUT", "partNumber=1&|/alice/g$|partNumber=1$", slow, times=2)
        with withstands(daemon), secured(daemon) as client:
            for name, data in (("f", LARGE), ("g", LARGE[: 8 * MIB])):
                began = time.monotonic()
                assert client.upload(f"STOR {name}", data).startswith("226")
                assert time.monotonic() - began > STALLED + 2
        assert len(proxy.spoiled) == 2
    assert bucket.contents() == {"alice/f": LARGE, "alice/g": LARGE[: 8 * MIB]}


def test_a_store_that_works_long(make_daemon: Make, bucket: Bucket) -> None:
    """The store may take longer than `timeouts.stalled` to put parts together, and to copy for APPE and a rename."""
    with FaultyProxy(bucket.server.port) as proxy:
        daemon = store_daemon(make_daemon, bucket, None, {"timeouts": {"stalled": STALLED}}, port=proxy.port)
        with withstands(daemon), secured(daemon) as client:
            proxy.spoil("POST", "/f[?]uploadId=", Delay(LONGER))
            assert client.upload("STOR f", LARGE).startswith("226")
            proxy.spoil("PUT", "/f[?].*partNumber=1(&|$)", Delay(LONGER))
            assert client.upload("APPE f", b"more").startswith("226")
            proxy.spoil("PUT", "/g$", Delay(LONGER))
            client.expect(350, "RNFR f")
            client.expect(250, "RNTO g")
        assert len(proxy.spoiled) == 3
    assert bucket.contents() == {"alice/g": LARGE + b"more"}


def test_each_request_of_a_listing_is_progress(make_daemon: Make, bucket: Bucket) -> None:
    """A directory with many uploads that were cut takes longer than `timeouts.stalled` to list: each name is there once."""
    for name in ("a", "b", "c", "b"):
        upload = bucket.client.create_multipart_upload(Bucket=bucket.name, Key=f"alice/{name}")["UploadId"]
        for number, data in ((1, LARGE[: 5 * MIB]), (MOST_PARTS, b"")):
            named = {"Bucket": bucket.name, "Key": f"alice/{name}", "UploadId": upload}
            bucket.client.upload_part(**named, PartNumber=number, Body=data)
    with FaultyProxy(bucket.server.port) as proxy:
        daemon = store_daemon(make_daemon, bucket, None, {"timeouts": {"stalled": STALLED}}, port=proxy.port)
        proxy.spoil("GET", "uploadId=", Delay(LONGER / 4), times=4)
        with withstands(daemon), secured(daemon) as client:
            assert sorted(line.split()[-1] for line in client.download("LIST").splitlines()) == [b"a", b"b", b"c"]
        assert len(proxy.spoiled) == 4


def test_a_store_that_works_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that may take long counts as progress for some time only, and one that is repeated not at all."""
    monkeypatch.setattr("ftpsd.storage.s3.calls.progress.PATIENT", 2.5)
    progress, seen = Progress(), 0
    with progress.patiently():
        began = time.monotonic()
        while time.monotonic() - began < 4:
            seen += progress.has_advanced()
            time.sleep(0.05)
    assert 2 <= seen <= 3
    body = Outgoing(bytes(MIB), progress)
    for round_ in range(3):
        body.seek(0)
        body.begin_sending()
        while body.read(1000):
            pass
        assert progress.has_advanced() == (round_ == 0)


def test_pieces_are_as_large_as_the_connection_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast connection gets 1 MiB at a time, one that is slow now 64 KiB, each of which is progress."""
    now = [100.0]
    monkeypatch.setattr("ftpsd.storage.s3.calls.progress.monotonic", lambda: now[0])
    data = LARGE[: 8 * MIB]
    body = Outgoing(data, Progress())
    assert bytes(body.read(1000)) == data  # it is signed
    body.seek(0)
    body.begin_sending()
    pieces = [bytes(body.read(1000)) for _ in range(6)]
    now[0] += 1
    pieces += [bytes(body.read(1000)) for _ in range(2)]
    assert [len(each) // 1024 for each in pieces] == [64, 128, 256, 512, 1024, 1024, 64, 128]
    while piece := bytes(body.read(1000)):
        pieces.append(piece)
    assert b"".join(pieces) == data
