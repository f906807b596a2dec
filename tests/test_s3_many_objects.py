"""A directory of very many objects: memory stays flat, and others are served meanwhile.

`FTPSD_OBJECTS=1000000` tries a million; an ordinary run has some tens of pages.
"""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.endless_store import EndlessStore
from tests.ftpclient import FtpClient, secured
from tests.hostile import open_transfer
from tests.s3 import KEY_ID, SECRET_KEY
from tests.store_daemon import HOME, MIB, Make
from tests.test_s3_memory import peak_of

pytest.importorskip("boto3", reason="boto3 is not installed")

#: The objects: few, and many.
FEW, MANY = 2_000, int(os.environ.get("FTPSD_OBJECTS", "30000"))

#: Bytes that many objects may take more than few.
_MORE = 12 * MIB

#: Seconds for one command.
_PATIENCE = 60 + MANY / 500


def serving(make_daemon: Make, store: EndlessStore) -> Daemon:
    """Return a daemon whose users have homes in the store: that of alice has a quota."""
    daemon = make_daemon(start=False)
    secret = daemon.directory / "secret"
    secret.touch(0o600)
    secret.write_text(SECRET_KEY)
    daemon.settings["storage"] = {
        "archive": {
            "type": "s3",
            "bucket": "endless",
            "endpoint": f"http://127.0.0.1:{store.port}",
            "region": "us-east-1",
            "credentials": {"access_key_id": KEY_ID, "secret_access_key_file": str(secret)},
        }
    }
    quota: dict[str, Any] = {"quota": {"files": 10_000_000}}
    daemon.users = {"alice": {"home": HOME, **quota}, "bob": {"home": HOME}}
    daemon.settings["timeouts"]["login"] = int(_PATIENCE)  # the login waits for the count
    daemon.write()
    return daemon.start()


def listed(client: FtpClient, other: FtpClient, line: str) -> int:
    """Return how many lines a listing has, of which another session sees nothing."""
    connection = open_transfer(client, line)
    connection.settimeout(_PATIENCE)
    found = connection.recv(MIB).count(b"\n")
    other.expect(550, "SIZE x")
    while piece := connection.recv(MIB):
        found += piece.count(b"\n")
    connection.close()
    assert client.reply().startswith("226")
    return found


def everything(daemon: Daemon, store: EndlessStore) -> None:
    """Count the directory, list it in all ways, and remove it."""
    began = time.monotonic()
    client = FtpClient(daemon)
    with client, secured(daemon, "bob") as other:
        client.start_tls()
        client.socket.settimeout(_PATIENCE)
        client.login()
        assert f"Files: {store.count} of" in client.expect(200, "SITE QUOTA")
        for line in ("LIST many", "MLSD many", "NLST many"):
            assert listed(client, other, line) == store.count
        client.send("RMDA many")
        other.expect(550, "SIZE x")
        assert client.reply().startswith("250")
        assert store.deleted == store.count
        assert "Files: 0 of" in client.expect(200, "SITE QUOTA")
    assert time.monotonic() - began < 10 * _PATIENCE


def test_memory_does_not_grow_with_the_directory(make_daemon: Make) -> None:
    """A count for a quota, LIST, MLSD, NLST and RMDA take no more memory for many objects than for few."""
    peaks = list[int]()
    for count in (FEW, MANY):
        with EndlessStore(count).running() as store:
            daemon = serving(make_daemon, store)
            with peak_of(daemon) as peak:
                everything(daemon, store)
            daemon.stop()
        peaks += peak
    assert peaks[1] - peaks[0] < _MORE, [each // MIB for each in peaks]
