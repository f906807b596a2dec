"""Quotas: the daemon's count is what the disk holds, after every operation and with any number of sessions."""

from __future__ import annotations

import errno
import itertools
import os
import random
import re
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.task import Clock

from ftpsd.config.settings import QuotaSettings
from ftpsd.limits.home_counts import Amount, QuotaLimits
from ftpsd.limits.local_home_counts import LocalHomeCount, LocalHomeCounts
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.home_usage import STALE, HomeUsage
from ftpsd.storage.local.measure import DirectoryMeter, measure, measure_name
from ftpsd.storage.local.part_files import PRIVATE, part_name
from ftpsd.storage.local.tree import directories, identity
from ftpsd.storage.quota import Quotas
from tests.daemon import Daemon
from tests.ftpclient import FtpClient, secured
from tests.hostile import MIB, open_transfer, plain_login, reset, wait_until, withstands

MakeDaemon = Callable[..., Daemon]

PLAIN: dict[str, Any] = {"tls": {"require": {"login": False, "data": False}}}


def limited(size: int | str | None = None, number: int | None = None) -> dict[str, Any]:
    """Return the settings of a user with a quota."""
    return {"quota": {"bytes": size, "files": number}}


def on_disk(home: Path) -> tuple[int, int]:
    """Return what a walk finds below a home: bytes, and the number of files and directories."""
    found = [path for path in home.rglob("*") if not path.is_symlink()]
    return sum(path.stat().st_size for path in found if path.is_file()), len(found)


def counted(client: FtpClient) -> tuple[int, int]:
    """Return what the daemon has counted: bytes and files."""
    reply = client.expect(200, "SITE QUOTA")
    found = re.findall(r"(?:Bytes|Files): (\d+)", reply)
    assert len(found) == 2, reply
    return int(found[0]), int(found[1])


def available(client: FtpClient) -> int:
    """Return the reply to AVBL, in bytes."""
    return int(client.expect(213, "AVBL").split()[1])


def try_upload(client: FtpClient, line: str, data: bytes) -> str:
    """Send data until the server refuses it. Return the final reply, or the refusal sent in place of 150."""
    connection: socket.socket = client.connect_data()
    first = client.command(line)
    if not first.startswith("150"):
        connection.close()
        return first
    with suppress(OSError):  # the reply tells
        if isinstance(client.socket, ssl.SSLSocket):
            connection = client.secure_data(connection)
        connection.sendall(data)
    return finish(client, connection)


def finish(client: FtpClient, connection: socket.socket) -> str:
    """End an upload properly, unless the server has ended it. Return the reply."""
    if isinstance(connection, ssl.SSLSocket):
        with suppress(OSError):
            connection.unwrap()
    connection.close()
    return client.reply()


def cut_after(client: FtpClient, line: str, data: bytes) -> None:
    """Cut an upload after all of the data has arrived."""
    connection = open_transfer(client, line)
    connection.sendall(data)
    wait_until(lambda: f" {len(data)} bytes " in client.command("STAT"), "it has arrived")
    client.send("ABOR")
    assert client.reply().startswith("426 ")
    assert client.reply().startswith("226 ")
    connection.close()


# --- bytes -------------------------------------------------------------------------------------------


def test_an_upload_that_crosses_the_quota(make_daemon: MakeDaemon) -> None:
    """An upload beyond the quota gets 552, which is logged. Nothing of it is kept, and the old file is unchanged."""
    daemon = make_daemon(users={"alice": limited("1M")})
    home = daemon.home()
    (home / "old").write_bytes(b"old" * 1000)
    with withstands(daemon), secured(daemon) as client:
        assert available(client) == MIB - 3000
        for name in ("old", "new"):
            reply = try_upload(client, f"STOR {name}", bytes(3 * MIB))
            assert re.fullmatch(r"552 Quota exceeded: \S+ [KM]iB of 1\.0 MiB used\.", reply)
            assert counted(client) == (3000, 1) == on_disk(home)
        assert (home / "old").read_bytes() == b"old" * 1000
        client.expect(552, f"ALLO {MIB}")
        client.expect(202, f"ALLO {MIB - 3000}")
        assert try_upload(client, "STOR new", bytes(MIB - 3000)).startswith("226 ")
        assert available(client) == 0
    daemon.wait_for_log(r"STOR new: 552 Quota exceeded: .* of 1\.0 MiB used\.")


def test_a_full_quota_is_refused_before_the_transfer(make_daemon: MakeDaemon) -> None:
    """When the quota is used up, STOR, STOU, APPE and REST get 552 in place of 150. Part files stay for later."""
    daemon = make_daemon(users={"alice": limited(2000)})
    with withstands(daemon), secured(daemon) as client:
        cut_after(client, "STOR later", bytes(500))
        assert counted(client) == (500, 1)
        assert client.upload("STOR full", bytes(1500)).startswith("226 ")
        for line in ("STOR a", "STOU", "APPE full", "APPE later", "REST 500"):
            if line == "REST 500":
                client.expect(350, line)
                line = "STOR later"
            client.passive_port()
            client.expect(552, line)
        assert counted(client) == (2000, 2) == on_disk(daemon.home())
        client.expect(250, "DELE full")
        client.expect(350, "REST 500")
        assert client.upload("STOR later", b"rest").startswith("226 ")
        assert counted(client) == (504, 1) == on_disk(daemon.home())


def test_replacing_needs_room_for_both(make_daemon: MakeDaemon) -> None:
    """While a file is replaced or continued, old and new bytes both count; afterwards only the new ones do."""
    daemon = make_daemon(users={"alice": limited(1000)})
    with withstands(daemon), secured(daemon) as client:
        assert client.upload("STOR f", bytes(600)).startswith("226 ")
        assert try_upload(client, "STOR f", bytes(401)).startswith("552 ")
        assert client.upload("STOR f", bytes(400)).startswith("226 ")
        assert available(client) == 600
        assert client.upload("APPE f", bytes(100)).startswith("226 ")
        assert counted(client) == (500, 1) == on_disk(daemon.home())
        client.passive_port()
        client.expect(552, "APPE f")  # the copy that an append begins with fills the quota
        client.expect(350, "REST 400")
        assert client.upload("STOR f", bytes(50)).startswith("226 ")
        assert counted(client) == (450, 1) == on_disk(daemon.home())


@pytest.mark.parametrize("login", [secured, plain_login], ids=["TLS", "plain"])
def test_uploads_race_to_the_limit(make_daemon: MakeDaemon, login: Callable[[Daemon], FtpClient]) -> None:
    """Simultaneous uploads never exceed the quota together, and those that are accepted are complete."""
    daemon = make_daemon(PLAIN, {"alice": limited(10 * MIB)})
    clients = [login(daemon) for _ in range(4)]
    data = random.Random(1).randbytes(4 * MIB)
    with withstands(daemon), ThreadPoolExecutor() as pool:
        for _ in range(3):
            names = [f"STOR f{number}" for number in range(4)]
            replies = list(pool.map(try_upload, clients, names, [data] * 4))
            assert {reply[:3] for reply in replies} <= {"226", "552"}
            done = [f"f{number}" for number, reply in enumerate(replies) if reply.startswith("226")]
            assert len(done) <= 2
            assert sorted(path.name for path in daemon.home().iterdir()) == done
            assert all((daemon.home() / name).read_bytes() == data for name in done)
            assert counted(clients[0]) == (len(done) * len(data), len(done))
            for name in done:
                clients[1].expect(250, f"DELE {name}")
            assert counted(clients[2]) == (0, 0)


# --- files -------------------------------------------------------------------------------------------


def test_the_number_of_files(make_daemon: MakeDaemon) -> None:
    """One file too many gets 552; existing files can still be replaced and continued."""
    daemon = make_daemon(users={"alice": limited(number=2)})
    with withstands(daemon), secured(daemon) as client, secured(daemon) as other:
        assert client.upload("STOR a", b"a").startswith("226 ")
        running = open_transfer(client, "STOR b")  # counts from its beginning
        other.passive_port()
        assert other.expect(552, "STOR c").endswith("Quota exceeded: 2 of 2 files and directories used.")
        assert finish(client, running).startswith("226 ")
        other.passive_port()
        other.expect(552, "STOU")
        assert other.upload("STOR a", b"again").startswith("226 ")
        assert other.upload("APPE b", b"more").startswith("226 ")
        assert counted(client) == (9, 2) == on_disk(daemon.home())
        client.expect(250, "DELE a")
        assert other.upload("STOR c", b"").startswith("226 ")
        assert counted(client) == (4, 2) == on_disk(daemon.home())


def test_directories_count_as_files(make_daemon: MakeDaemon) -> None:
    """One directory too many gets 552, AVBL returns 0, and SITE QUOTA counts directories.

    A removal gives the room back.
    """
    daemon = make_daemon(users={"alice": limited("1M", 5)}, start=False)
    home = daemon.home()
    (home / "old" / "older").mkdir(parents=True)
    with withstands(daemon.start()), secured(daemon) as client:
        assert counted(client) == (0, 2) == on_disk(home)
        assert client.upload("STOR old/f", bytes(1000)).startswith("226 ")
        client.expect(257, "MKD a")
        client.expect(257, "MKD a/b")
        assert "5 of 5, directories included" in client.expect(200, "SITE QUOTA")
        assert available(client) == 0
        client.expect(202, "ALLO 1000")  # there is room to replace a file
        for line in ("MKD c", "XMKD a/c"):
            assert client.expect(552, line).endswith("Quota exceeded: 5 of 5 files and directories used.")
        client.expect(550, "MKD a")
        client.passive_port()
        client.expect(552, "STOR new")
        assert client.upload("STOR old/f", bytes(10)).startswith("226 ")
        for old, new in (("a/b", "b"), ("b", "old/older"), ("a", "old/older/a")):
            client.expect(350, f"RNFR {old}")
            client.expect(250, f"RNTO {new}")
        assert counted(client) == (10, 4) == on_disk(home)  # one empty directory took the place of another
        client.expect(257, "MKD c")
        client.expect(250, "RMD c")
        client.expect(550, "RMD old")
        assert counted(client) == (10, 4) == on_disk(home)
        client.expect(250, "RMDA old")
        assert counted(client) == (0, 0) == on_disk(home)


def test_a_file_deleted_while_it_is_replaced(make_daemon: MakeDaemon) -> None:
    """A client that deletes the file which its upload replaces gets no file beyond the quota."""
    daemon = make_daemon(users={"alice": limited(number=1)})
    with withstands(daemon), secured(daemon) as client, secured(daemon) as other:
        assert client.upload("STOR a", b"old").startswith("226 ")
        running = open_transfer(client, "STOR a")
        other.expect(250, "DELE a")
        assert other.upload("STOR b", b"b").startswith("226 ")
        assert finish(client, running) == "552 Quota exceeded: 1 of 1 files and directories used."
        assert counted(client) == (1, 1) == on_disk(daemon.home())


# --- what gives back ---------------------------------------------------------------------------------


def test_removals_free_the_quota(make_daemon: MakeDaemon) -> None:
    """DELE, RNTO onto a file, RMDA, and RMD of a directory with a part file free exactly what they remove."""
    daemon = make_daemon(users={"alice": limited("1G", 1000)})
    home = daemon.home()
    with withstands(daemon), secured(daemon) as client:
        for name, size in (("a", 10), ("b", 200), ("c", 3000)):
            assert client.upload(f"STOR {name}", bytes(size)).startswith("226 ")
        client.expect(250, "DELE a")
        assert counted(client) == (3200, 2)
        for old, new, expected in (("b", "b", (3200, 2)), ("b", "e", (3200, 2)), ("e", "c", (200, 1))):
            client.expect(350, f"RNFR {old}")
            client.expect(250, f"RNTO {new}")
            assert counted(client) == expected == on_disk(home)
        (home / "link").symlink_to("c")
        client.expect(250, "DELE link")
        client.expect(550, "DELE nothing")
        assert counted(client) == (200, 1)
        for name in ("d", "d/e", "d/f"):
            client.expect(257, f"MKD {name}")
        (home / "d" / "out").symlink_to("/etc")
        for name in ("d/1", "d/2", "d/e/3"):
            assert client.upload(f"STOR {name}", bytes(50)).startswith("226 ")
        cut_after(client, "STOR d/f/cut", bytes(77))
        assert counted(client) == (427, 8) == on_disk(home)
        client.expect(550, "RMD d")
        client.expect(550, "RMD d/e")
        client.expect(250, "RMD d/f")
        assert counted(client) == (350, 6) == on_disk(home)
        client.expect(250, "RMDA d")
        assert counted(client) == (200, 1) == on_disk(home)


def test_chmod_keeps_directories_countable(make_daemon: MakeDaemon) -> None:
    """SITE CHMOD cannot take the daemon's own access to a directory in a home with a quota."""
    daemon = make_daemon(users={"alice": limited("1M")})
    with withstands(daemon), secured(daemon) as client:
        client.expect(257, "MKD d")
        for line in ("SITE CHMOD 000 d", "MFF UNIX.mode=000; d"):
            assert client.command(line)[0] == "2"
            assert (daemon.home() / "d").stat().st_mode & 0o777 == 0o700
        assert client.upload("STOR d/f", bytes(100)).startswith("226 ")
        client.expect(200, "SITE CHMOD 000 d/f")
        assert (daemon.home() / "d" / "f").stat().st_mode & 0o777 == 0


def test_a_home_within_a_home_is_swept(make_daemon: MakeDaemon) -> None:
    """A sweep of an inner home changes the count of that home only, not of the home around it."""
    users = {"alice": limited("1M"), "bob": {"home": "homes/alice/inner"}}
    daemon = make_daemon({"uploads": {"keep_parts": 1}}, users, start=False)
    inner = daemon.home() / "inner"
    inner.mkdir()
    with withstands(daemon.start()), secured(daemon) as client, secured(daemon, "bob") as other:
        assert client.upload("STOR f", bytes(1000)).startswith("226 ")
        data = open_transfer(other, "STOR g")
        data.sendall(bytes(5000))
        reset(data)
        assert other.reply()[0] == "4"
        wait_until(lambda: not os.listdir(inner), "it is swept")
        assert counted(client) == (1000, 2)


def test_resumed_part_files_are_charged_in_one_step(tmp_path: Path) -> None:
    """An upload that resumes a part file is charged in one step: no other session can take the room in between."""
    count, limit = HomeUsage(str(tmp_path), DirectoryMeter(), LocalHomeCount()), QuotaLimits(QuotaSettings(bytes=1000))
    (tmp_path / part_name("f")).write_bytes(bytes(900))
    directory = os.open(tmp_path, os.O_RDONLY)
    count.add(Amount(900, 1))
    with (
        pytest.raises(Refusal, match="Quota exceeded"),
        count.changing(partial(measure, ((directory, "f"),))) as change,
    ):
        os.unlink(part_name("f"), dir_fd=directory)
        change.charge(Amount(1001, 1), limit)
    assert count.amount == Amount()
    with count.changing(partial(measure, ((directory, "f"),))) as change:
        change.charge(Amount(900, 1), limit)
    assert count.amount == Amount(900, 1)
    os.close(directory)


def test_a_tree_is_removed_under_an_upload(make_daemon: MakeDaemon) -> None:
    """RMDA of the directory of a running upload frees what the upload has written, once."""
    daemon = make_daemon(users={"alice": limited("1M", 10)})
    with withstands(daemon), secured(daemon) as client, secured(daemon) as other:
        client.expect(257, "MKD d")
        assert client.upload("STOR d/f", bytes(100)).startswith("226 ")
        for line in ("STOR d/new", "STOR d/f", "APPE d/f"):
            running = open_transfer(client, line)
            running.sendall(bytes(5000))
            wait_until(lambda: " 5000 bytes " in client.command("STAT"), "it has arrived")
            other.expect(250, "RMDA d")
            reset(running)
            assert client.reply()[0] in "45"
            assert counted(client) == (0, 0) == on_disk(daemon.home())
            client.expect(257, "MKD d")
            assert client.upload("STOR d/f", bytes(100)).startswith("226 ")
            assert counted(client) == (100, 2) == on_disk(daemon.home())


def test_what_a_cut_upload_keeps(make_daemon: MakeDaemon) -> None:
    """A part file counts until it is published, overwritten or deleted."""
    daemon = make_daemon(users={"alice": limited("1M", 10)})
    home = daemon.home()
    with withstands(daemon), secured(daemon) as client, secured(daemon) as other:
        cut_after(client, "STOR f", bytes(3000))
        assert counted(client) == (3000, 1) == on_disk(home)
        client.expect(350, "REST 1000")
        cut_after(client, "STOR f", bytes(200))
        assert counted(client) == (1200, 1) == on_disk(home)
        cut_after(client, "STOR f", bytes(7))
        assert counted(client) == (7, 1) == on_disk(home)
        client.passive_port()
        client.expect(350, "REST 5000")
        client.expect(554, "STOR f")
        cut_after(client, "STOR nothing", b"")
        assert counted(client) == (7, 1) == on_disk(home)
        running = open_transfer(client, "APPE f")
        running.sendall(bytes(3))
        cut_after(other, "STOR f", bytes(90))  # the second upload of a name has a part of its own
        assert finish(client, running).startswith("226 ")
        assert counted(client) == (10, 1) == on_disk(home)
        cut_after(client, "APPE f", bytes(3))
        assert counted(client) == (10, 1) == on_disk(home)
        cut_after(client, "STOR f", bytes(500))
        assert counted(client) == (510, 2) == on_disk(home)
        client.expect(250, "DELE f")
        assert counted(client) == (0, 0) == on_disk(home)


def test_disk_errors_are_not_charged(make_daemon: MakeDaemon) -> None:
    """An upload that fails with an error of the disk is no longer charged."""
    # The table that workers share is a larger file than this limit permits.
    daemon = make_daemon({**PLAIN, "workers": 1}, {"alice": limited("10M", 10)}, start=False)
    daemon.start(prefix=("prlimit", "--fsize=1000000"))
    with withstands(daemon), plain_login(daemon) as client:
        assert client.upload("STOR f", bytes(5000)).startswith("226 ")
        for line in ("STOR f", "STOR g", "APPE f"):
            assert try_upload(client, line, bytes(3_000_000)) == "552 File too large for the file system."
            assert counted(client) == (5000, 1) == on_disk(daemon.home())


# --- who is counted, and when ------------------------------------------------------------------------


def test_one_home_of_several_users(make_daemon: MakeDaemon) -> None:
    """Users with the same home share its count, also those without a quota; each has a limit of their own."""
    daemon = make_daemon(start=False)
    home = {"home": str(daemon.home())}
    daemon.users = {"alice": limited(100) | home, "bob": limited(1000) | home, "carol": home, "dave": {}}
    daemon.write()
    daemon.start()
    with withstands(daemon), secured(daemon, "carol") as carol, secured(daemon, "bob") as bob:
        assert carol.upload("STOR c", bytes(150)).startswith("226 ")
        assert bob.upload("STOR b", bytes(600)).startswith("226 ")
        assert try_upload(bob, "STOR d", bytes(251)).startswith("552 ")
        with secured(daemon) as alice, secured(daemon, "dave") as dave:
            assert available(alice) == 0
            alice.passive_port()
            alice.expect(552, "STOR a")
            alice.expect(250, "DELE b")
            alice.expect(552, "ALLO 1")
            alice.expect(250, "DELE c")
            assert alice.upload("STOR a", bytes(100)).startswith("226 ")
            for client in (alice, bob, carol):
                assert counted(client) == (100, 1)
            assert "Bytes: 100, no limit" in carol.command("SITE QUOTA")
            assert dave.command("SITE QUOTA") == "200 No quota."
            assert "SITE QUOTA" in dave.command("SITE HELP")


def test_files_of_other_programs_are_counted(make_daemon: MakeDaemon) -> None:
    """Files of other programs are counted at the first login after a start. Links are not followed."""
    daemon = make_daemon(users={"alice": limited("1M", 1000)}, start=False)
    home = daemon.home()
    (home / "d" / "e").mkdir(parents=True)
    (home / "d" / "e" / "f").write_bytes(bytes(1234))
    (home / "g").write_bytes(b"g")
    (home / "out").symlink_to("/etc")
    (home / "link").symlink_to("g")
    daemon.start()
    with secured(daemon) as client:
        assert counted(client) == (1235, 4)
        cut_after(client, "STOR cut", bytes(65))
        (home / "more").write_bytes(bytes(700))
        assert counted(client) == (1300, 5)
    with secured(daemon) as client:
        assert counted(client) == (1300, 5)  # not every login walks
    daemon.stop()
    daemon.log_file.write_bytes(b"")
    daemon.start()
    with withstands(daemon), secured(daemon) as client:
        assert counted(client) == (2000, 6) == on_disk(home)
        client.expect(350, "REST 65")
        assert client.upload("STOR cut", bytes(5)).startswith("226 ")
        assert counted(client) == (2005, 6) == on_disk(home)


def test_a_tree_deeper_than_any_path(make_daemon: MakeDaemon) -> None:
    """A tree deeper than PATH_MAX or Python's recursion limit, as renames can make one, is counted like any other."""
    daemon = make_daemon(users={"alice": limited("1M")}, start=False)
    home, name = daemon.home(), "d" * 10
    for _ in range(12):  # each time the tree comes to lie below a hundred new directories
        new = home.joinpath("new", *[name] * 100)
        new.mkdir(parents=True)
        (new / "f").write_bytes(bytes(5))
        if (home / "tree").exists():
            (home / "tree").rename(new / "below")
        (home / "new").rename(home / "tree")
    daemon.start()
    with withstands(daemon), secured(daemon) as client:
        assert counted(client) == (60, 12 + 12 * 100 + 11 + 1)
        for _ in range(12):  # the tests' own cleaning up does not go so deep
            below = home.joinpath("tree", *[name] * 100, "below")
            if below.exists():
                below.rename(home / "rest")
            client.expect(250, "RMDA tree")
            if (home / "rest").exists():
                (home / "rest").rename(home / "tree")


def test_reload_gives_and_takes_quotas(make_daemon: MakeDaemon) -> None:
    """A reload that adds, changes or removes a quota affects new sessions."""
    daemon = make_daemon(users={"alice": {}})
    with withstands(daemon), secured(daemon) as old:
        assert old.upload("STOR a", bytes(500)).startswith("226 ")
        for limit in (600, 550):
            daemon.users = {"alice": limited(limit)}
            daemon.write()
            daemon.reload()
            with secured(daemon) as client:
                assert available(client) == limit - 500
        daemon.users = {"alice": {"quota": None}}
        daemon.write()
        daemon.reload()
        with secured(daemon) as client:
            client.expect(200, "SITE QUOTA")
            assert client.upload("STOR b", bytes(1000)).startswith("226 ")
        assert old.upload("STOR c", bytes(1000)).startswith("226 ")


def test_a_counted_home_that_vanished(make_daemon: MakeDaemon) -> None:
    """A user can log in without the home directory; when it exists again, it is counted."""
    daemon = make_daemon(users={"alice": limited(1000)})
    home = daemon.home()
    shutil.move(home, home.with_name("away"))
    with secured(daemon) as client:
        client.passive_port()
        client.expect(550, "STOR a")
    (home.with_name("away") / "a").write_bytes(bytes(300))
    shutil.move(home.with_name("away"), home)
    with withstands(daemon), secured(daemon) as client:
        assert counted(client) == (300, 1)


class AtOnce:
    """Worker threads that run each job immediately, in the caller's thread."""

    def queue(self, *_: str) -> AtOnce:
        return self

    def run(self, steps: Generator[None, None, bool]) -> Any:
        return maybeDeferred(finished, steps)


def finished(steps: Generator[None, None, bool]) -> bool:
    """Run all steps of a job and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return bool(end.value)


def test_a_tree_is_counted_while_others_look_at_it(tmp_path: Path) -> None:
    """A sweep that only looks at part files does not prevent the first count."""
    for number in range(300):
        (tmp_path / f"{PRIVATE}{number:032x}").write_bytes(b"x")
    quotas = Quotas(Clock(), AtOnce(), DirectoryMeter(), LocalHomeCounts())  # type: ignore[arg-type]
    quotas.keep({str(tmp_path)}, {str(tmp_path)})
    ended = threading.Event()

    def look() -> None:
        directory = os.open(tmp_path, os.O_RDONLY)
        while not ended.is_set():
            with (
                suppress(BlockingIOError),
                quotas.changing(str(tmp_path), partial(measure_name, directory, "something")),
            ):
                pass
        os.close(directory)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        found: list[HomeUsage] = []
        visited = quotas.enter(str(tmp_path))
        assert visited is not None
        visited.addCallback(found.append)
        assert (found[0].amount.bytes, found[0].amount.files) == (300, 300)
    finally:
        ended.set()
        looker.join()


def test_a_walk_does_not_go_through_a_link_that_a_rename_has_put_there(tmp_path: Path) -> None:
    """RMDA and the count do not follow a link that a rename puts in the place of a directory, at any depth."""
    (tmp_path / "home" / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "outside" / "c").mkdir(parents=True)
    (tmp_path / "outside" / "c" / "secret").touch()
    walk = directories(str(tmp_path / "home"))
    assert [next(walk).directories for _ in range(3)] == [["a"], ["b"], ["c"]]
    (tmp_path / "home" / "a" / "b").rename(tmp_path / "home" / "moved")
    (tmp_path / "home" / "a" / "b").symlink_to(tmp_path / "outside")
    assert list(walk) == []


def test_a_home_that_cannot_be_counted(tmp_path: Path) -> None:
    """If the disk fails while the home is counted, the login fails, and the session is not counted."""

    class Failing:
        def queue(self, *_: str) -> Failing:
            return self

        def run(self, steps: Any) -> Deferred[Any]:
            return fail(OSError(errno.EIO, "the disk"))

    quotas = Quotas(Clock(), Failing(), DirectoryMeter(), LocalHomeCounts())  # type: ignore[arg-type]
    quotas.keep({str(tmp_path)}, {str(tmp_path)})
    for _ in range(2):
        failed: list[Any] = []
        visited = quotas.enter(str(tmp_path))
        assert visited is not None
        visited.addErrback(failed.append)
        assert failed[0].check(OSError)
        assert quotas._usages[str(tmp_path)].sessions == 0


def test_a_tree_is_counted_again(tmp_path: Path) -> None:
    """The first session after an hour without any counts the home again, also when the clock was set back."""
    clock, count = Clock(), itertools.count()
    clock.advance(1_000_000)
    quotas = Quotas(clock, AtOnce(), DirectoryMeter(), LocalHomeCounts())  # type: ignore[arg-type]
    quotas.keep({str(tmp_path)}, {str(tmp_path)})

    def visit() -> HomeUsage:
        (tmp_path / str(next(count))).touch()
        found: list[HomeUsage] = []
        visited = quotas.enter(str(tmp_path))
        assert visited is not None
        visited.addCallback(found.append)
        return found[0]

    assert quotas.enter("/nowhere") is None
    assert [visit().amount.files for _ in range(3)] == [1, 1, 1]
    clock.advance(STALE + 1)
    tree = visit()
    assert tree.amount.files == 1
    for _ in range(4):
        tree.leave()
    assert visit().amount.files == 5
    tree.leave()
    assert visit().amount.files == 5
    tree.leave()
    clock.rightNow -= 10  # type: ignore[attr-defined]
    assert visit().amount.files == 7
    tree.leave()
    with tree.changing():
        tree.exclude(identity((tmp_path / "0").stat()))
    clock.advance(STALE + 1)
    assert visit().amount.files == 7  # an upload of a session that has ended still closes


# --- whatever is done --------------------------------------------------------------------------------


NAMES = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a"]


def do_something(client: FtpClient, chance: random.Random) -> None:
    """Make one random change, permitted or not."""
    name, size = chance.choice(NAMES), chance.choice([0, 1, 10, 1000, 30_000])
    kind = chance.choice("STOR STOR APPE STOU REST CUT CUT DELE RN RMD RMDA MKD".split())  # noqa: SIM905
    if kind == "RN":
        if client.command(f"RNFR {name}").startswith("350"):
            client.command(f"RNTO {chance.choice(NAMES)}")
    elif kind in ("DELE", "RMD", "RMDA", "MKD"):
        client.command(f"{kind} {name}")
    elif kind == "CUT":
        connection = client.connect_data()
        if client.command(f"{chance.choice(['STOR', 'APPE'])} {name}").startswith("150"):
            connection.sendall(bytes(size))
            client.send("ABOR")
            assert client.reply()[:3] in ("426", "226", "550", "552")
            assert client.reply().startswith("226")
        connection.close()
    else:
        if kind == "REST":
            client.expect(350, f"REST {chance.choice([1, 5, 1000])}")
        try_upload(client, f"{'STOR' if kind == 'REST' else kind} {name}", bytes(size))


@pytest.mark.parametrize("seed", range(3))
def test_the_count_is_what_a_walk_finds(make_daemon: MakeDaemon, seed: int) -> None:
    """After each of many random changes by two sessions, the count is what a new walk finds."""
    daemon = make_daemon(PLAIN, {"alice": limited(100_000, 6)})
    chance = random.Random(seed)
    with withstands(daemon):
        clients = [plain_login(daemon), plain_login(daemon)]
        for _ in range(250):
            do_something(chance.choice(clients), chance)
            assert counted(clients[0]) == on_disk(daemon.home())
            assert on_disk(daemon.home())[0] <= 100_000


def test_the_count_is_exact_for_many_at_once(make_daemon: MakeDaemon) -> None:
    """After random changes by six sessions at the same time, the count is what a new walk finds."""
    daemon = make_daemon(PLAIN, {"alice": limited(100_000, 6)})

    def work(seed: int) -> FtpClient:
        client, chance = plain_login(daemon), random.Random(seed)
        for _ in range(120):
            do_something(client, chance)
        return client

    with withstands(daemon), ThreadPoolExecutor(6) as pool:
        clients = list(pool.map(work, range(6)))
        assert counted(clients[0]) == on_disk(daemon.home())
        assert on_disk(daemon.home())[0] <= 100_000
