"""Stores and worker processes: what the processes must know of each other."""

from __future__ import annotations

from contextlib import ExitStack

from tests.ftpclient import secured
from tests.hostile import open_transfer, withstands
from tests.s3 import Bucket
from tests.store_daemon import HOME, LARGE, MIB, Make, store_daemon


def test_a_quota_in_a_store_counts_once_for_all_workers(make_daemon: Make, bucket: Bucket) -> None:
    """Uploads in all workers succeed and are counted. One that is deleted while it runs elsewhere frees nothing."""
    users = {"alice": {"home": HOME, "quota": {"bytes": 40 * MIB}}}
    daemon = store_daemon(make_daemon, bucket, users, {"workers": 2})
    with withstands(daemon), ExitStack() as stack:
        clients = [stack.enter_context(secured(daemon)) for _ in range(4)]
        connection = open_transfer(clients[0], "STOR cut")
        connection.sendall(LARGE[: 17 * MIB])
        for number, client in enumerate(clients[1:]):
            assert client.upload(f"STOR f{number}", LARGE[:MIB]).startswith("226")
            client.expect(550, "DELE nothing")
        for client in clients[1:]:
            client.send("DELE cut")
            client.reply()
        connection.close()
        clients[0].reply()
        clients[0].command("DELE cut")
        assert clients[0].expect(213, "AVBL") == f"213 {37 * MIB}"
    assert sorted(bucket.all_keys()) == ["alice/f0", "alice/f1", "alice/f2"]
