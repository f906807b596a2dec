"""Resuming continues what was cut, or is refused: no file is ever a mixture of two."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpsd.storage.local.part_files import part_name
from ftpsd.storage.local.rename import rename_new
from tests.daemon import Daemon
from tests.ftpclient import FtpClient, secured
from tests.hostile import cut, open_transfer, wait_until, withstands
from tests.test_publishing import ORDINARY, finish, names, store, tampered

Make = Callable[..., Daemon]


@pytest.fixture
def daemon(make_daemon: Make) -> Iterator[Daemon]:
    """alice may do everything; bob and carol have her home, and may only add to it."""
    users = {"alice": {}, "bob": {"permissions": ["list", "download", "upload", "append"]}}
    carol = {"permissions": ["list", "upload", "append"]}
    homes = {"home": "homes/alice"}
    daemon = make_daemon(
        users={"alice": {}, "bob": {**users["bob"], **homes}, "carol": {**carol, **homes}}, start=False
    )
    daemon.home("alice")
    daemon.start(ORDINARY)
    with withstands(daemon):
        yield daemon


def begin_and_cut(client: FtpClient, line: str, content: bytes) -> None:
    """Begin an upload, and end its data connection too early."""
    data = open_transfer(client, line)
    data.sendall(content)
    cut(data)
    assert client.reply().startswith("426 ")


def content(daemon: Daemon, name: str) -> bytes:
    """Return the content of a file in the home."""
    return (daemon.home() / name).read_bytes()


def test_a_running_upload_cannot_be_resumed(daemon: Daemon) -> None:
    """REST and STOR while the first attempt still runs get 450, and the old file stays."""
    (daemon.home() / "f").write_bytes(b"o" * 1000)
    with secured(daemon) as hanging, secured(daemon) as again:
        data = open_transfer(hanging, "STOR f")
        data.sendall(b"n" * 500)
        again.expect(350, "REST 500")
        again.passive_port()
        again.expect(450, "STOR f")
        cut(data)
        assert hanging.reply().startswith("426 ")
        again.expect(350, "REST 500")
        assert store(again, "STOR f", b"N" * 500).startswith("226 ")
    assert content(daemon, "f") == b"n" * 500 + b"N" * 500


def test_an_upload_that_began_in_an_old_file(daemon: Daemon) -> None:
    """What was received after a restart offset in an old file is kept for resuming; a copy without new bytes is not."""
    (daemon.home() / "f").write_bytes(b"o" * 1000)
    with secured(daemon) as client:
        client.expect(350, "REST 300")
        begin_and_cut(client, "STOR f", b"n" * 200)
        assert content(daemon, "f") == b"o" * 1000
        client.expect(350, "REST 500")
        assert store(client, "STOR f", b"N" * 500).startswith("226 ")
        assert content(daemon, "f") == b"o" * 300 + b"n" * 200 + b"N" * 500
        client.expect(350, "REST 300")
        begin_and_cut(client, "STOR f", b"")
    assert names(daemon) == {"f"}


def test_a_file_that_is_renamed_to_the_name(daemon: Daemon) -> None:
    """RNTO to the name of a cut upload removes its part file."""
    with secured(daemon) as client:
        begin_and_cut(client, "STOR g", b"A" * 1000)
        assert store(client, "STOR g.tmp", b"B" * 500).startswith("226 ")
        client.expect(350, "RNFR g.tmp")
        client.expect(250, "RNTO g")
        assert names(daemon) == {"g"}
        client.expect(350, "REST 500")
        assert store(client, "STOR g", b"b" * 500).startswith("226 ")
    assert content(daemon, "g") == b"B" * 500 + b"b" * 500


def test_a_file_that_is_renamed_to_its_own_name(daemon: Daemon) -> None:
    """RNTO to the file's own name does not remove its part file."""
    with secured(daemon) as client:
        assert store(client, "STOR g", b"old").startswith("226 ")
        begin_and_cut(client, "STOR g", b"A" * 1000)
        client.expect(350, "RNFR g")
        client.expect(250, "RNTO ../g")
        client.expect(350, "REST 1000")
        assert store(client, "STOR g", b"a").startswith("226 ")
    assert content(daemon, "g") == b"A" * 1000 + b"a"


@pytest.mark.parametrize("first", ["the other is published", "the one is cut"])
def test_another_upload_of_the_name_is_published(daemon: Daemon, first: str) -> None:
    """When one of two simultaneous uploads is cut and the other published, REST continues the published file."""
    with secured(daemon) as one, secured(daemon) as other:
        cutting = open_transfer(one, "STOR g")
        cutting.sendall(b"A" * 1000)
        if first == "the other is published":
            assert store(other, "STOR g", b"B" * 500).startswith("226 ")
            cut(cutting)
            assert one.reply().startswith("426 ")
        else:
            running = open_transfer(other, "STOR g")
            cut(cutting)
            assert one.reply().startswith("426 ")
            running.sendall(b"B" * 500)
            finish(running)
            assert other.reply().startswith("226 ")
        assert names(daemon) == {"g"}
        other.expect(350, "REST 500")
        assert store(other, "STOR g", b"b" * 500).startswith("226 ")
    assert content(daemon, "g") == b"B" * 500 + b"b" * 500


def test_a_file_that_is_made_again(daemon: Daemon) -> None:
    """A part file is not kept if the old file was deleted and made again, even with the same inode number."""
    path = daemon.home() / "f"
    path.write_bytes(b"old")
    with secured(daemon) as client:
        data = open_transfer(client, "STOR f")
        data.sendall(b"A" * 1000)
        path.unlink()
        path.write_bytes(b"new")
        cut(data)
        assert client.reply().startswith("426 ")
    assert names(daemon) == {"f"}
    assert content(daemon, "f") == b"new"


@pytest.mark.parametrize("old", [None, b"version 1, "])
def test_append_without_overwrite_replaces_nothing(daemon: Daemon, old: bytes | None) -> None:
    """APPE without the permission `overwrite` does not replace what was stored meanwhile."""
    if old is not None:
        (daemon.home() / "shared").write_bytes(old)
    with secured(daemon, "bob") as adding, secured(daemon) as owner:
        data = open_transfer(adding, "APPE shared")
        data.sendall(b"and more")
        assert store(owner, "STOR shared", b"version 2").startswith("226 ")
        finish(data)
        assert adding.reply().startswith("450 ")
        assert content(daemon, "shared") == b"version 2"
        assert store(adding, "APPE shared", b"and more").startswith("226 ")
    assert content(daemon, "shared") == b"version 2" + b"and more"
    assert names(daemon) == {"shared"}


def test_a_read_only_part_file(daemon: Daemon) -> None:
    """After a kill between setting the mode and publishing, a read-only part file can be resumed, deleted and swept."""
    old = daemon.home() / "f"
    old.write_bytes(b"old")
    old.chmod(0o444)
    part = daemon.home() / part_name("f")
    with secured(daemon) as client:
        for line, rest in (("STOR f", b""), ("REST 3", b"...")):
            part.write_bytes(b"new")
            part.chmod(0o444)
            if line.startswith("REST"):
                client.expect(350, line)
            assert store(client, "STOR f", rest or b"new").startswith("226 ")
            assert old.read_bytes() == b"new" + rest
            assert old.stat().st_mode & 0o777 == 0o444
        part.write_bytes(b"new")
        part.chmod(0)
        client.expect(250, "DELE f")
        assert names(daemon) == set()


def test_a_look_at_a_part_file_changes_no_mode(make_daemon: Make) -> None:
    """A published file has its final mode, even if another session has changed the mode of the part file meanwhile."""
    daemon = tampered(make_daemon, "fsync:delay_enter=300000", fsync=True)
    old = daemon.home() / "f"
    old.write_bytes(b"old")
    old.chmod(0o444)
    part = daemon.home() / part_name("f")
    with secured(daemon) as client:
        data = open_transfer(client, "STOR f")
        data.sendall(b"new")
        finishing = threading.Thread(target=finish, args=(data,))
        finishing.start()
        wait_until(lambda: part.exists() and part.stat().st_mode & 0o777 == 0o444, "the mode is set")
        part.chmod(0o600)  # as who looks whether it is in use has to, unless he is root
        assert client.reply().startswith("226 ")
        finishing.join()
    assert old.read_bytes() == b"new"
    assert old.stat().st_mode & 0o777 == 0o444


def test_a_file_of_somebody_else_in_a_sticky_directory(tmp_path: Path) -> None:
    """A file that may not be renamed keeps its only name, whichever method is tried."""
    if os.geteuid() != 0:
        pytest.skip("needs files of two users")
    tmp_path.chmod(0o1777)
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "a").chmod(0o666)
    directory = os.open(tmp_path, os.O_RDONLY)
    child = os.fork()
    if not child:
        os.setuid(65534)
        try:
            rename_new(directory, "a", directory, "b")
        except PermissionError:
            os._exit(3)
        finally:
            os._exit(4)
    os.close(directory)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_that_runs_as_its_owner(daemon: Daemon) -> None:
    """A replaced file keeps its mode, but not set-user-ID and set-group-ID."""
    old = daemon.home() / "program"
    old.write_bytes(b"old")
    old.chmod(0o6755)
    with secured(daemon) as client:
        assert client.upload("STOR program", b"new").startswith("226 ")
    assert old.stat().st_mode & 0o7777 == 0o755


def test_a_directory_takes_the_name(daemon: Daemon) -> None:
    """If a directory gets the name during an upload, the upload is refused, and no part file is kept."""
    with secured(daemon) as client:
        data = open_transfer(client, "STOR f")
        data.sendall(b"content")
        wait_until(lambda: any((daemon.home() / name).stat().st_size for name in names(daemon)), "it has arrived")
        (daemon.home() / "f").mkdir()
        finish(data)
        assert client.reply().startswith("550 ")
    assert names(daemon) == {"f"}


def test_a_directory_that_may_only_be_written_to(daemon: Daemon) -> None:
    """Uploads work in a directory that may only be written to, and to a file that may not be read."""
    box = daemon.home() / "box"
    box.mkdir()
    (box / "f").write_bytes(b"old")
    (box / "f").chmod(0o200)
    box.chmod(0o300)
    with secured(daemon) as client:
        assert client.upload("STOR box/f", b"new").startswith("226 ")
        assert client.upload("STOR box/g", b"new").startswith("226 ")
    box.chmod(0o700)
    assert {each.name for each in box.iterdir()} == {"f", "g"}


def test_stou_of_a_long_name(daemon: Daemon) -> None:
    """STOU to a long name makes it unique by replacing its end."""
    with secured(daemon) as client:
        assert client.upload(f"STOU {'é' * 127}", b"content").startswith("226 ")
    (name,) = names(daemon)
    assert len(os.fsencode(name)) <= 255
    assert content(daemon, name) == b"content"


def test_private_names_in_capitals(daemon: Daemon) -> None:
    """Clients cannot use the names of part files in capitals, for disks that ignore case."""
    with secured(daemon) as client:
        client.expect(550, f"SIZE {part_name('f').upper()}")
        client.expect(550, f"MKD {part_name('f').upper()}")
        client.expect(550, f"MKD {part_name('f').replace('s', 'ſ')}")


@pytest.mark.parametrize("rules", [[], ["renameat2:error=EINVAL"], ["renameat2:error=ENOSYS"]])
def test_rename_without_overwrite_replaces_nothing(make_daemon: Make, rules: list[str]) -> None:
    """RNTO without the permission `overwrite` works for a free name only.

    Also if the disk cannot do it in one step.
    """
    daemon = tampered(make_daemon, *rules)
    home = daemon.home("bob")
    (home / "folder" / "below").mkdir(parents=True)
    (home / "taken").write_bytes(b"taken")
    daemon.users = {"alice": {}, "bob": {"permissions": ["upload", "list", "download", "rename"]}}
    daemon.write()
    daemon.reload()
    with withstands(daemon), secured(daemon, "bob") as client:
        client.expect(350, "RNFR folder")
        client.expect(250, "RNTO moved")
        client.expect(350, "RNFR moved")
        client.expect(553, "RNTO taken")
    assert (home / "moved" / "below").is_dir()
    assert (home / "taken").read_bytes() == b"taken"
    wait_until(lambda: names(daemon, "bob") == {"moved", "taken"}, "no placeholder is left")
