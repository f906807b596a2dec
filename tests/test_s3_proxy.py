"""The proxy that spoils requests does to real requests what its rules say."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon import PATIENCE
from tests.s3 import Bucket, client_of
from tests.s3_proxy import Answer, Corrupt, Cut, Delay, Fault, FaultyProxy, Hang


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[FaultyProxy]:
    """A proxy before the server of the bucket."""
    with FaultyProxy(bucket.server.port) as running:
        yield running


def attempt(proxy: FaultyProxy, bucket: Bucket, method: str, data: bytes = b"") -> Any:
    """Make one request through the proxy, without retries; return what came, or the name of the error."""
    client = client_of(proxy.port, attempts=1)
    try:
        if method == "PUT":
            client.put_object(Bucket=bucket.name, Key="new", Body=data)
            return bucket.get("new")
        return client.get_object(Bucket=bucket.name, Key="old")["Body"].read()
    except Exception as error:
        answer: Any = getattr(error, "response", None) or {}
        return answer.get("Error", {}).get("Code") or type(error).__name__


@pytest.mark.parametrize(("method", "fault", "expected"), [
    ("GET", None, b"0123456789"),
    ("PUT", None, b"abcdefghij"),
    ("GET", Answer(503, "SlowDown"), "SlowDown"),
    ("PUT", Answer(500, "InternalError", after=4), "InternalError"),
    ("GET", Cut(response_after=4), "IncompleteRead ResponseStreamingError ProtocolError"),
    ("GET", Cut(response_after=0), "ConnectionClosedError EndpointConnectionError"),
    ("PUT", Cut(request_after=3), "ConnectionClosedError EndpointConnectionError"),
    ("GET", Corrupt(response_at=9), b"012345678" + bytes([ord("9") ^ 0xFF])),
    ("PUT", Corrupt(request_at=0), bytes([ord("a") ^ 0xFF]) + b"bcdefghij"),
    ("GET", Delay(0.2), b"0123456789"),
])  # fmt: skip
def test_faults(bucket: Bucket, proxy: FaultyProxy, method: str, fault: Fault | None, expected: str | bytes) -> None:
    """Each fault happens once to a request that matches, and the next request is as it should be."""
    bucket.put("old", b"0123456789")
    if fault is not None:
        proxy.spoil(method, "/(old|new)", fault)
    began = time.monotonic()
    found = attempt(proxy, bucket, method, b"abcdefghij")
    assert found == expected if isinstance(expected, bytes) else found in expected.split()
    assert not isinstance(fault, Delay) or time.monotonic() - began >= fault.seconds
    assert attempt(proxy, bucket, method, b"abcdefghij") in (b"0123456789", b"abcdefghij")
    assert len(proxy.requests) == 2
    assert proxy.spoiled == ([] if fault is None else [fault])


def test_what_hangs_is_cut_when_it_is_released(bucket: Bucket, proxy: FaultyProxy) -> None:
    """A request that hangs gets no answer until the proxy is stopped; after a start it serves again."""
    bucket.put("old", b"0123456789")
    proxy.stop()
    assert attempt(proxy, bucket, "GET") == "EndpointConnectionError"
    proxy.start()
    assert attempt(proxy, bucket, "GET") == b"0123456789"
    proxy.spoil("GET", "old", Hang(response_after=2))
    threading.Thread(target=_heal_when_it_hangs, args=(proxy, len(proxy.spoiled)), daemon=True).start()
    assert attempt(proxy, bucket, "GET") in ("IncompleteRead", "ResponseStreamingError", "ProtocolError")


def _heal_when_it_hangs(proxy: FaultyProxy, before: int) -> None:
    """Let go what hangs, once there is something."""
    deadline = time.monotonic() + PATIENCE
    while len(proxy.spoiled) == before and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    proxy.heal()


def test_both_servers_keep_what_they_are_given(each_bucket: Bucket) -> None:
    """moto and Swift hold objects, list them and their directories, and know open multipart uploads."""
    each_bucket.put("in/a b+ä.txt", b"one")
    each_bucket.put("top", b"two")
    each_bucket.client.create_multipart_upload(Bucket=each_bucket.name, Key="in/cut")
    assert each_bucket.contents() == {"in/a b+ä.txt": b"one", "top": b"two"}
    assert each_bucket.uploads() == ["in/cut"]
    each_bucket.abort_all()
    assert each_bucket.uploads() == []
