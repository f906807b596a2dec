"""The state of a store does not flap: one failed request and one good one, in turns, change neither log nor health."""

from __future__ import annotations

import time

import pytest
from twisted.logger import globalLogPublisher

from ftpsd.storage.s3.calls.errors import StoreFailed, translated
from ftpsd.storage.s3.calls.health import Health
from tests.ftpclient import secured
from tests.prometheus import with_metrics
from tests.s3 import Bucket
from tests.s3_proxy import Answer, FaultyProxy
from tests.store_daemon import Make, store_daemon


def test_requests_that_fail_now_and_then(make_daemon: Make, bucket: Bucket) -> None:
    """Keys that the store denies give 451 and one line in the log; /ready stays 200, and the store is not down."""
    bucket.put_many({"alice/good": b"1", "alice/bad": b"1"})
    with FaultyProxy(bucket.server.port) as proxy:
        daemon = store_daemon(make_daemon, bucket, port=proxy.port, start=False)
        metrics = with_metrics(daemon)
        daemon.write()
        daemon.start()
        metrics.becomes(1.0, "ftpsd_store_up", store="archive")
        proxy.spoil("HEAD", "alice/bad", Answer(403, "AccessDenied"), times=1000)
        end = time.monotonic() + 20
        with secured(daemon) as client:
            while time.monotonic() < end:
                client.expect(451, "SIZE bad")
                assert metrics.get("/ready").status == 200
                client.expect(213, "SIZE good")
                time.sleep(0.3)
        assert metrics.value("ftpsd_store_up", store="archive") == 1.0
    assert daemon.log.count("a request to the store archive has failed: head_object: 403") == 1
    assert "cannot be used" not in daemon.log
    assert "works again" not in daemon.log


def test_a_store_of_which_every_other_probe_fails() -> None:
    """The first probe decides at once; after that two in a row are needed to change the state, in both directions."""
    health = Health("archive")
    health.probed("refused")
    assert health.why == "refused"
    for _ in range(5):
        health.probed("")
        health.probed("refused again")
        assert health.why == "refused again"
    health.probed("")
    health.probed("")
    assert health.why == ""
    for _ in range(5):
        health.probed("refused")
        assert health.is_doubtful
        assert health.why == ""
        health.probed("")
    health.probed("refused")
    health.probed("refused")
    assert health.why == "refused"


def test_a_failed_request_lets_the_store_be_probed() -> None:
    """A request does not change the state; a good probe clears the suspicion."""
    health = Health("archive")
    health.note(None)
    assert not health.is_suspect
    health.note(StoreFailed(451, "Storage not available.", "head_object: 500"))
    assert health.is_suspect
    assert health.why == ""
    health.probed("")
    assert not health.is_suspect


def test_an_unreachable_store_is_one_line_in_the_log() -> None:
    """The messages of botocore have the URL, and with it the key: each file would be another failure."""
    exceptions = pytest.importorskip("botocore.exceptions")
    health, lines = Health("archive"), list[object]()
    globalLogPublisher.addObserver(lines.append)
    try:
        for number in range(5):
            error = exceptions.EndpointConnectionError(endpoint_url=f"http://127.0.0.1:9/bucket/{number}")
            health.note(translated(error, "head_object"))
            health.note(translated(error, "list_objects_v2"))
    finally:
        globalLogPublisher.removeObserver(lines.append)
    assert len(lines) == 2
