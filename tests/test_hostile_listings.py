"""Hostile names, endless listings and full disks. After each the daemon still serves."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon import PATIENCE, Daemon
from tests.ftpclient import read_all, secured
from tests.hostile import frees_everything, open_transfer, plain_login, reset, withstands

# --- names and listings ------------------------------------------------------------------------------

EVIL = [
    "a\r\n226 done",
    "b\nc",
    "d\re",
    "\r\n",
    "213 x\n250 y",
    "x\r\n-rw-r--r-- 1 ftp ftp 1 Jan  1 00:00 fake",
]


def test_line_ends_in_names(make_daemon: Callable[..., Daemon]) -> None:
    """CR or LF in a name adds no line to a reply or a listing."""
    daemon = make_daemon()
    for number, name in enumerate(EVIL):
        (daemon.home() / name).mkdir()
        (daemon.home() / name / name).write_bytes(b"x")
        (daemon.home() / f"link{number}").symlink_to(name)
    with withstands(daemon), secured(daemon) as client:
        lines = 2 * len(EVIL)
        assert len(_lines(client.download("NLST"))) == lines
        assert len(_lines(client.download("LIST"))) == lines
        assert len(_lines(client.download("LIST -a"))) == lines + 2
        assert len(_lines(client.download("MLSD"))) == lines
        assert len(_lines(client.download("LIST *"))) == lines
        deep = _lines(client.download("LIST -R"))
        assert len(deep) == lines + 3 * len(EVIL), deep
        assert not [line for line in deep if line and line[:1] not in b"d-l/"], deep
        client.send("STAT", "STAT .", "STAT -R", "MLST", "MLST link0", "STAT link0", "CWD link5", "PWD", "NOOP")
        replies = [client.raw_reply() for _ in range(9)]
        assert [reply[:3] for reply in replies] == [
            b"211",
            b"213",
            b"213",
            b"250",
            b"250",
            b"213",
            b"250",
            b"257",
            b"200",
        ]
        for reply in replies:
            assert b"\n" not in reply.replace(b"\r\n", b"")
        client.expect(250, "CWD /")
        client.send(b"MKD n\r\0ew", b"CWD n\r\0ew", b"PWD", b"CWD n\r\0othing", b"RNFR n\r\0o", b"NOOP")
        codes = [client.raw_reply() for _ in range(6)]
        assert [reply[:3] for reply in codes] == [b"257", b"250", b"257", b"550", b"550", b"200"], codes
        assert client.upload(b"STOR s\r\0x", b"y").startswith("226")


def _lines(listing: bytes) -> list[bytes]:
    assert listing.endswith(b"\r\n")
    lines = listing.removesuffix(b"\r\n").split(b"\r\n")
    for line in lines:
        assert b"\r" not in line and b"\n" not in line, line
    return lines


def test_links_fifos_and_sockets(plain: Daemon) -> None:
    """Dangling links, FIFOs and sockets are listed, but neither read nor written, and nothing waits for them."""
    home = plain.home() / "odd-things"
    home.mkdir()
    (home / "dangling").symlink_to("nowhere")
    (home / "loop").symlink_to("loop")
    os.mkfifo(home / "fifo")
    (home / "good").write_bytes(b"good")
    with withstands(plain), plain_login(plain) as client:
        client.expect(250, "CWD odd-things")
        for line in ("LIST", "NLST", "MLSD", "LIST -R"):
            listing = client.download(line).decode()
            assert all(name in listing for name in ("dangling", "loop", "fifo", "good")), listing
        for line in ("RETR fifo", "STOR fifo", "APPE fifo", "RETR loop", "STOR loop", "RETR dangling"):
            client.passive_port()
            client.expect(550, line)
        for line in ("HASH fifo", "SIZE fifo", "MDTM fifo"):
            assert client.command(line)[:2] == "55", line


def test_a_fifo_is_not_opened(plain: Daemon) -> None:
    """RETR, HASH, STOR and APPE do not open a FIFO: its writer does not notice."""
    home = plain.home() / "fifos"
    home.mkdir()
    os.mkfifo(home / "fifo")
    (home / "link").symlink_to("fifo")
    with withstands(plain), plain_login(plain) as client:
        for name in ("fifos/fifo", "fifos/link"):
            opened = threading.Event()

            def write(path: Path = home / "fifo", opened: threading.Event = opened) -> None:
                with path.open("wb"):  # waits for a reader
                    opened.set()

            writer = threading.Thread(target=write, daemon=True)
            writer.start()
            for line in ("RETR", "STOR", "APPE"):
                client.passive_port()
                client.expect(550, f"{line} {name}")
            assert client.command(f"HASH {name}")[:2] == "55"
            assert not opened.is_set()
            os.close(os.open(home / "fifo", os.O_RDONLY | os.O_NONBLOCK))
            writer.join(PATIENCE)


def test_a_fifo_replaces_a_file(plain: Daemon) -> None:
    """RETR and APPE end with a reply, even if a FIFO gets the name between check and use."""
    home = plain.home() / "swapped"
    home.mkdir()
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for name, make in (("f1", os.mkfifo), ("f2", lambda path: Path(path).write_bytes(b"file"))):
                make(home / name)
                os.rename(home / name, home / "file")

    (home / "file").write_bytes(b"file")
    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        with withstands(plain), plain_login(plain) as client:
            for _ in range(60):
                for line in ("RETR swapped/file", "APPE swapped/file"):
                    data = client.connect_data()
                    reply = client.command(line)
                    data.close()
                    if reply.startswith("150"):
                        reply = client.reply()
                    assert reply[:3] in ("226", "426", "450", "550", "553"), reply
    finally:
        done.set()
        swapper.join()


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon with a directory of 100,000 names."""
    daemon = Daemon(tmp_path_factory.mktemp("crowded"), certificate)
    (daemon.home() / "crowd").mkdir()
    first = daemon.home() / "crowd" / "first"
    first.touch()
    for number in range(99_999):
        os.link(first, daemon.home() / "crowd" / f"name-{number}") if number < 50_000 else (
            daemon.home() / "crowd" / f"name-{number}"
        ).touch()
    yield daemon.start()
    daemon.stop()


def test_a_hundred_thousand_names(crowded: Daemon) -> None:
    """A large listing that its client does not read uses no memory and delays no other session."""
    with withstands(crowded), secured(crowded) as client, secured(crowded, "bob") as other:
        for line in ("NLST crowd", "LIST crowd", "MLSD crowd"):
            before = crowded.memory()
            data = open_transfer(client, line)
            for _ in range(20):
                other.expect(200, "NOOP")
            other.download("LIST")
            client.expect(213, "STAT")
            assert crowded.memory() - before < 16 * 1024 * 1024
            listing = read_all(data)
            data.close()
            assert client.reply().startswith("226")
            assert listing.count(b"\r\n") == 100_000
    with withstands(crowded), frees_everything(crowded):
        for _ in range(5):
            gone = secured(crowded)
            data = open_transfer(gone, "LIST crowd")
            data.recv(1000)
            reset(data)
            reset(gone.socket)


def test_recursive_with_hidden_names_ends(plain: Daemon) -> None:
    """LIST -aR lists `.` and `..` in each directory, and does not descend into them."""
    (plain.home() / "all" / "below").mkdir(parents=True)
    with withstands(plain), plain_login(plain) as client:
        for line in ("LIST -aR all", "NLST -aR all"):
            data = open_transfer(client, line)
            listing = b""
            while (piece := data.recv(65536)) and len(listing) < 100_000:
                listing += piece
            data.close()
            client.reply()
            assert len(listing) < 100_000, listing[:1000]
            assert listing.count(b":\r\n") == 1
        assert len(client.command("STAT -aR all").splitlines()) < 20


def test_deep_and_looping_trees(plain: Daemon) -> None:
    """LIST -R ends, also in a tree as deep as paths can be and with links back to its top."""
    top = deep = plain.home() / "deep-tree"
    for _ in range(180):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "top").symlink_to(top)
    (top / "self").symlink_to(".")
    with withstands(plain), plain_login(plain) as client:
        for line in ("LIST -R deep-tree", "NLST -R deep-tree", "STAT -R deep-tree"):
            if line.startswith("STAT"):
                client.expect(213, line)
            else:
                assert client.download(line).count(b"/d:") >= 178
        client.expect(553, "CWD " + "d/" * 300)
        client.expect(550, "CWD deep-tree" + "/self" * 60)
        client.expect(250, "RMDA deep-tree")
    assert not top.exists()


# --- disks that are full -----------------------------------------------------------------------------


def test_full_disks(make_daemon: Callable[..., Daemon]) -> None:
    """An upload that does not fit is refused. The old file and the free space stay as they were."""
    daemon = make_daemon(start=False)
    home = daemon.home()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(home)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        (home / "old").write_bytes(b"old" * 1000)
        daemon.start()
        with withstands(daemon), secured(daemon) as client:
            for name in ("old", "new"):
                data = open_transfer(client, f"STOR {name}")
                try:
                    for _ in range(64):
                        data.sendall(bytes(64 * 1024))
                    data.unwrap()
                except OSError:
                    pass
                data.close()
                assert client.reply()[:3] in ("426", "451", "452", "552")
            client.expect(552, "ALLO 99999999")
            assert client.upload("STOR small", b"x" * 1000).startswith("226"), "no room is left for others"
            assert client.download("RETR old") == b"old" * 1000
        assert sorted(path.name for path in home.iterdir() if not path.name.startswith(".")) == [
            "old",
            "small",
        ]
    finally:
        daemon.stop()
        subprocess.run(["umount", "-l", str(home)], check=True)


def test_files_beyond_the_limit(make_daemon: Callable[..., Daemon]) -> None:
    """An upload larger than the process may write is refused, and the daemon continues."""
    daemon = make_daemon(start=False)
    daemon.start(prefix=("prlimit", "--fsize=80000000"))  # the table of a daemon with workers has 68 MB
    with withstands(daemon), secured(daemon) as client:
        data = open_transfer(client, "STOR large")
        try:
            for _ in range(100):
                data.sendall(bytes(1_000_000))
            data.unwrap()
        except OSError:
            pass
        data.close()
        assert client.reply()[:3] in ("426", "451", "452", "552")
    assert not (daemon.home() / "large").exists()
