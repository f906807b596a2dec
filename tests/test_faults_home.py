"""A home that disappears while its user is logged in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress

from tests.daemon import Daemon
from tests.ftpclient import secured
from tests.test_service import start_upload


def test_a_home_that_is_renamed_away(make_daemon: Callable[..., Daemon]) -> None:
    """Commands in a home that was renamed get 550, also in new sessions; when it is back, they work.

    A running upload is completed in the directory, wherever that is now.
    """
    daemon = make_daemon()
    home = daemon.home()
    (home / "f").write_bytes(b"content")
    away = home.with_name("away")
    with secured(daemon) as client, secured(daemon) as busy:
        data = start_upload(busy, "g")
        home.rename(away)
        client.expect(550, "SIZE f")
        client.expect(550, "MKD d")
        client.expect(257, "PWD")
        connection = client.connect_data()
        client.expect(550, "STOR new")
        connection.close()
        with secured(daemon) as new:
            new.expect(550, "SIZE f")
        data.sendall(b"and ended")
        data.unwrap().close()
        assert busy.reply().startswith("226 ")
        assert (away / "g").read_bytes() == b"begun, and ended"
        away.rename(home)
        assert client.download("RETR f") == b"content"
    daemon.wait_for_log("STOR new: 550 ")
    assert "Traceback" not in daemon.log


def test_a_home_that_is_deleted(make_daemon: Callable[..., Daemon]) -> None:
    """An upload whose home was deleted gets 550 and leaves nothing. Other users are not affected."""
    daemon = make_daemon()
    with secured(daemon) as client, secured(daemon, "bob") as bob:
        data = start_upload(client, "g")
        shutil.rmtree(daemon.home())
        with suppress(OSError):  # TLS that ends without the server's close_notify
            data.sendall(b"and ended")
            data.unwrap().close()
        assert client.reply().startswith("550 ")
        assert not daemon.home().exists()
        client.expect(257, "PWD")
        assert bob.upload("STOR f", b"moved").startswith("226")
    daemon.wait_for_log("STOR g: 550 ")
    assert "Traceback" not in daemon.log
