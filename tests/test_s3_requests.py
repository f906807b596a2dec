"""How many requests a download makes: each costs time, and money."""

from __future__ import annotations

import pytest

from tests.ftpclient import secured
from tests.s3 import Bucket
from tests.s3_proxy import FaultyProxy
from tests.store_daemon import LARGE, MIB, Make, store_daemon


@pytest.mark.parametrize(("size", "requests"), [(1, 1), (8 * MIB, 1), (8 * MIB + 1, 2), (len(LARGE), 4)])
def test_a_download(make_daemon: Make, each_bucket: Bucket, size: int, requests: int) -> None:
    """A file of one part is fetched by one request, a larger one by one for each part."""
    each_bucket.put("alice/f", LARGE[:size])
    with FaultyProxy(each_bucket.server.port) as proxy:
        daemon = store_daemon(make_daemon, each_bucket, port=proxy.port)
        with secured(daemon) as client:
            assert client.download("RETR f") == LARGE[:size]
        made = [each for each in proxy.requests if "/alice/f" in each.target]
    assert [each.method for each in made] == ["GET"] * requests


def test_where_a_file_has_no_bytes(make_daemon: Make, each_bucket: Bucket) -> None:
    """An empty file, and a restart at the end of a file or beyond, are answered as on a disk."""
    each_bucket.put("alice/empty", b"")
    each_bucket.put("alice/ten", b"0123456789")
    daemon = store_daemon(make_daemon, each_bucket)
    with secured(daemon) as client:
        assert client.download("RETR empty") == b""
        for offset, expected in ((9, b"9"), (10, b"")):
            client.expect(350, f"REST {offset}")
            assert client.download("RETR ten") == expected
        client.expect(229, "EPSV")
        client.expect(350, "REST 11")
        client.expect(554, "RETR ten")
        client.expect(550, "RETR none")
