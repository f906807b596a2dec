"""Uploads that were cut are gone on with as what they are, or not at all: no file is ever mixed from two."""

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
    """alice may do everything; bob is in her home, and may add to what there is."""
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
    """An upload whose data connection ends too early."""
    data = open_transfer(client, line)
    data.sendall(content)
    cut(data)
    assert client.reply().startswith("426 ")


def content(daemon: Daemon, name: str) -> bytes:
    """What a home has under a name."""
    return (daemon.home() / name).read_bytes()


def test_an_upload_that_still_runs_is_not_gone_on_with(daemon: Daemon) -> None:
    """REST while the first attempt has not ended for the server: 450, and the old file stays."""
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
    """What was received behind a restart offset in an old file is kept like any other; a copy alone is not."""
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
    """RNTO gives the name to another file: what was cut under it goes."""
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
    """RNTO of the same name takes nothing away."""
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
    """Of two uploads at once one is cut and one published: what goes on later goes on with the published one."""
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


def test_a_new_file_in_the_old_ones_place(daemon: Daemon) -> None:
    """A file that was made anew is another one, though disks give it the number of the one that went."""
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
def test_who_may_only_append_replaces_nothing(daemon: Daemon, old: bytes | None) -> None:
    """APPE without the permission `overwrite`: what somebody has stored meanwhile stays."""
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


def test_a_part_with_the_mode_of_a_read_only_file(daemon: Daemon) -> None:
    """A part gets the old file's mode just before it appears: killed then, it is gone on with, deleted or swept."""
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


def test_who_looks_at_a_part_changes_no_mode(make_daemon: Make) -> None:
    """While a file is being synced, with its mode set already, others ask for its part: it appears with that mode."""
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
    """What cannot be renamed keeps its one name, whichever way was tried."""
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
    """The mode of the old file stays, but not what lets it run as somebody."""
    old = daemon.home() / "program"
    old.write_bytes(b"old")
    old.chmod(0o6755)
    with secured(daemon) as client:
        assert client.upload("STOR program", b"new").startswith("226 ")
    assert old.stat().st_mode & 0o7777 == 0o755


def test_a_directory_takes_the_name(daemon: Daemon) -> None:
    """The upload is refused in the end, and nothing is left of it."""
    with secured(daemon) as client:
        data = open_transfer(client, "STOR f")
        data.sendall(b"content")
        wait_until(lambda: any((daemon.home() / name).stat().st_size for name in names(daemon)), "it has arrived")
        (daemon.home() / "f").mkdir()
        finish(data)
        assert client.reply().startswith("550 ")
    assert names(daemon) == {"f"}


def test_a_directory_that_may_only_be_written_to(daemon: Daemon) -> None:
    """A box for drops, and a file that nobody may read, take uploads."""
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
    """What makes the name unique takes the place of its end."""
    with secured(daemon) as client:
        assert client.upload(f"STOU {'é' * 127}", b"content").startswith("226 ")
    (name,) = names(daemon)
    assert len(os.fsencode(name)) <= 255
    assert content(daemon, name) == b"content"


def test_private_names_in_capitals(daemon: Daemon) -> None:
    """Where the disk takes capitals for small letters, a part is not to be named either."""
    with secured(daemon) as client:
        client.expect(550, f"SIZE {part_name('f').upper()}")
        client.expect(550, f"MKD {part_name('f').upper()}")
        client.expect(550, f"MKD {part_name('f').replace('s', 'ſ')}")


@pytest.mark.parametrize("rules", [[], ["renameat2:error=EINVAL"], ["renameat2:error=ENOSYS"]])
def test_who_may_not_overwrite_renames_over_nothing(make_daemon: Make, rules: list[str]) -> None:
    """RNTO without the permission `overwrite`, to a free name and to a taken one; also where the disk cannot do it in
    one step."""
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
