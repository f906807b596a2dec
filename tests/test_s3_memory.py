"""What stores cost in memory: little for each of them, and no more for large files than for small ones."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.measure import memory
from tests.daemon import Daemon
from tests.ftpclient import FtpClient, secured
from tests.hostile import open_transfer
from tests.s3 import Bucket, running_lean
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


@contextmanager
def peak_of(daemon: Daemon) -> Iterator[list[int]]:
    """Read the memory of a daemon, as PSS, twenty times a second. At the end, the list has the largest value."""
    found, ended = [0], threading.Event()

    def read() -> None:
        while not ended.wait(0.05):
            found[0] = max(found[0], memory([daemon.pid]))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield found
    finally:
        ended.set()
        reader.join()


def upload_and_download(client: FtpClient, size: int) -> None:
    """Store and fetch a file of so many MiB, piece by piece."""
    piece = os.urandom(MIB)
    connection = open_transfer(client, "STOR f")
    for _ in range(size):
        connection.sendall(piece)
    assert isinstance(connection, ssl.SSLSocket)
    connection.unwrap().close()
    assert client.reply().startswith("226")
    connection = open_transfer(client, "RETR f")
    left = size * MIB
    while received := len(connection.recv(MIB)):
        left -= received
    connection.close()
    assert client.reply().startswith("226")
    assert left == 0


def test_memory_does_not_grow_with_the_file(make_daemon: Make) -> None:
    """An upload and a download of 512 MiB take as much memory as those of 64 MiB, give or take ten parts of 8 MiB."""
    peaks = list[int]()
    with running_lean() as server:
        daemon = store_daemon(make_daemon, server.new_bucket())
        for size in (64, 512):
            with secured(daemon) as client, peak_of(daemon) as peak:
                upload_and_download(client, size)
            peaks += peak
    assert peaks[1] - peaks[0] < 80 * MIB, [each // MIB for each in peaks]
