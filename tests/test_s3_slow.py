"""A store that is slow, or does not answer at all: what other users see, and when a transfer counts as stalled."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

from tests.ftpclient import secured
from tests.hostile import withstands
from tests.s3 import Bucket
from tests.s3_proxy import Delay, FaultyProxy
from tests.store_daemon import HOME, LARGE, Make, store_daemon


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
