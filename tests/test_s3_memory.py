"""What stores cost in memory: little for each of them, and no more for large files than for small ones."""

from __future__ import annotations

from tests.ftpclient import secured
from tests.s3 import Bucket
from tests.store_daemon import HOME, MIB, Make, store_daemon


def test_many_stores(make_daemon: Make, bucket: Bucket) -> None:
    """Nine stores take little more memory than one: the description of S3 that boto3 reads is shared."""
    memory = []
    for count in (1, 9):
        daemon = store_daemon(make_daemon, bucket, prefix="0/", start=False)
        for number in range(1, count):
            daemon.settings["storage"][f"more{number}"] = bucket.settings(daemon.directory, prefix=f"{number}/")
        daemon.users = {"alice": {"home": HOME}}
        daemon.write()
        daemon.start()
        with secured(daemon) as client:
            client.upload("STOR f", b"1")
        memory.append(daemon.memory())
        daemon.stop()
    assert memory[1] - memory[0] < 24 * MIB, memory
