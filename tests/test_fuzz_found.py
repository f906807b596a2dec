"""Faults of sessions that fuzzers and scanners have found, each with the commands that showed it."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ftpsd.storage.local.part_files import part_name
from tests.daemon import PATIENCE, Daemon
from tests.ftpclient import FtpClient, tls_context

Clients = tuple[FtpClient, FtpClient]


@pytest.fixture
def clients(plain: Daemon) -> Iterator[Clients]:
    """Two sessions of one user, and an empty directory /d."""
    with FtpClient(plain).login() as one, FtpClient(plain).login() as other:
        one.expect(257, "MKD /d")
        yield one, other
        other.command("RMDA /d")


def begin(client: FtpClient, line: str, data: bytes) -> socket.socket:
    """Begin an upload that is not finished."""
    connection = client.connect_data()
    client.expect(150, line)
    connection.sendall(data)
    return connection


def cut(client: FtpClient, line: str, data: bytes) -> None:
    """Cut an upload."""
    with begin(client, line, data):
        client.send("ABOR")
        assert client.reply().startswith("426")
        assert client.reply().startswith("226")


def inside(daemon: Daemon) -> Path:
    """Return the directory on the disk."""
    return daemon.home() / "d"


def test_a_refused_rmd_leaves_an_append_alone(plain: Daemon, clients: Clients) -> None:
    """RMD of a directory with a running APPE, whose old file was deleted, does not affect the upload."""
    one, other = clients
    other.upload("STOR /d/f", b"old ")
    connection = begin(one, "APPE /d/f", b"new")
    other.expect(250, "DELE /d/f")
    other.expect(550, "RMD /d")
    connection.close()
    assert one.reply().startswith("450")
    one.expect(350, "REST 7")
    assert one.upload("STOR /d/f", b"").startswith("226")
    assert (inside(plain) / "f").read_bytes() == b"old new"


def test_a_refused_rmd_leaves_what_was_cut(plain: Daemon, clients: Clients) -> None:
    """RMD of a directory with a running upload keeps the part file of another one."""
    one, other = clients
    cut(one, "STOR /d/f", b"x")
    (inside(plain) / part_name("f")).write_bytes(b"half")
    connection = begin(one, "STOR /d/g", b"x")
    other.expect(550, "RMD /d")
    assert other.expect(213, "SIZE /d/f") == "213 4"
    connection.close()
    assert one.reply().startswith("226")


@pytest.mark.parametrize("verb", ["STOR", "APPE"])
def test_rmda_below_an_upload_frees_its_descriptors(plain: Daemon, clients: Clients, verb: str) -> None:
    """An upload whose directory was removed by RMDA is refused, and keeps no file open."""
    one, other = clients
    other.upload("STOR /d/f", b"old")
    connection = begin(one, f"{verb} /d/f", b"new")
    other.expect(250, "RMDA /d")
    connection.close()
    assert one.reply().startswith("550")
    one.expect(200, "NOOP")
    held = [os.readlink(f"/proc/{plain.pid}/fd/{number}") for number in os.listdir(f"/proc/{plain.pid}/fd")]
    assert not [path for path in held if path.startswith(str(plain.home()))]


def test_a_refused_dele_changes_nothing(plain: Daemon, clients: Clients) -> None:
    """DELE of a directory is refused, and the part file of an upload to that name stays."""
    one, other = clients
    cut(one, "STOR /d/f", b"x")
    (inside(plain) / part_name("f")).write_bytes(b"half")
    other.expect(257, "MKD /d/f")
    other.expect(550, "DELE /d/f")
    assert (inside(plain) / part_name("f")).read_bytes() == b"half"


def test_stou_beside_a_directory(clients: Clients) -> None:
    """STOU finds a free name, also if a directory has the wanted one."""
    one, _ = clients
    one.expect(250, "CWD /d")
    one.expect(257, "MKD upload")
    assert one.upload("STOU", b"x").startswith("226")
    assert one.upload("STOU upload", b"x").startswith("226")


def test_rmda_of_a_tree_deeper_than_any_path(plain: Daemon, clients: Clients) -> None:
    """RMDA removes a tree of a thousand levels and more, as renames can make one."""
    one, _ = clients
    for _ in range(7):
        deep = "/t" + "/d" * 189
        (plain.home() / deep[1:]).mkdir(parents=True)
        one.expect(350, "RNFR /d")
        one.expect(250, f"RNTO {deep}/d")
        one.expect(350, "RNFR /t")
        one.expect(250, "RNTO /d")
    one.expect(250, "RMDA /d")
    assert not inside(plain).exists()
    one.expect(257, "MKD /d")


def test_replies_before_close_notify(plain: Daemon) -> None:
    """A client that sends close_notify right after its last command still gets the replies."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = tls_context().wrap_bio(incoming, outgoing)
    with socket.create_connection((plain.host, plain.implicit_port), PATIENCE) as connection:

        def exchange(step: Callable[[], object]) -> object:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    connection.sendall(outgoing.read())
                    if data := connection.recv(65536):
                        incoming.write(data)
                    else:
                        incoming.write_eof()

        exchange(secured.do_handshake)
        exchange(lambda: secured.read(4096))
        secured.write(b"FEAT\r\nNOOP\r\n")
        with pytest.raises(ssl.SSLWantReadError):
            secured.unwrap()  # all in one segment
        heard = b""
        with suppress(ssl.SSLZeroReturnError):
            while b"200 OK" not in heard:
                got = exchange(lambda: secured.read(4096))
                assert got, heard
                heard += got  # type: ignore[operator]
        assert heard.startswith(b"211-")
