"""ABOR while a store does not answer: the reply comes immediately, and other sessions are served meanwhile."""

from __future__ import annotations

import time

import pytest

from tests.ftpclient import secured
from tests.hostile import open_transfer, withstands
from tests.s3 import Bucket
from tests.s3_proxy import FaultyProxy, Hang
from tests.store_daemon import LARGE, Make, store_daemon

#: Seconds within which the reply comes: a request that hangs takes a minute, and is repeated.
SOON = 30.0


@pytest.mark.parametrize(
    ("method", "pattern", "line"),
    [
        ("GET", "alice/f", "RETR f"),
        ("PUT", "partNumber=1", "STOR g"),
        ("POST", "uploads", "STOR g"),
        ("GET", "delimiter=/", "LIST"),
    ],
)
def test_abort_while_the_store_hangs(make_daemon: Make, bucket: Bucket, method: str, pattern: str, line: str) -> None:
    """ABOR ends a download, an upload and a listing whose request gets no answer; the session goes on."""
    bucket.put("alice/f", LARGE)
    with FaultyProxy(bucket.server.port) as proxy:
        daemon = store_daemon(make_daemon, bucket, port=proxy.port)
        with withstands(daemon), secured(daemon) as client, secured(daemon, "bob") as other:
            proxy.spoil(method, pattern, Hang(), times=9)
            if line in ("LIST", "RETR f"):
                connection = client.connect_data()
                client.send(line)  # 150 follows the first page, or the first bytes
            else:
                connection = open_transfer(client, line)
            if line.startswith("STOR"):
                connection.sendall(LARGE[: 9 << 20])
            deadline = time.monotonic() + 60
            while not proxy.spoiled:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            began = time.monotonic()
            client.send("ABOR")
            assert client.reply().startswith("426")
            assert client.reply().startswith("226")
            assert time.monotonic() - began < SOON
            client.expect(200, "NOOP")
            other.expect(257, "PWD")
            proxy.heal()
            connection.close()
            client.expect(213, "SIZE f")
