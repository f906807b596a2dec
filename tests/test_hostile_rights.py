"""Users who try more than they may: permissions hold on every way. After each attempt the daemon still serves."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.ftpclient import secured
from tests.hostile import attempts, snapshot, withstands

# --- rights ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon whose users have limited permissions."""
    rules: dict[str, Any] = {
        "reader": {"permissions": "read-only"},
        "dropper": {"permissions": "upload-only"},
        "alice": {
            "paths": {
                "/archive": "read-only",
                "/data/keep/safe": "read-only",
                "/hidden": [],
                "/in": "upload-only",
            }
        },
        "bob": {"permissions": ["list", "upload", "append"]},
        "mover": {"permissions": ["list", "upload", "mkdir", "rename", "overwrite"]},
        "namer": {"permissions": ["upload", "rename"]},
        "taker": {"permissions": ["download"]},
    }
    daemon = Daemon(tmp_path_factory.mktemp("ruled"), certificate, users=rules).start()
    yield daemon
    daemon.stop()


def _fill(home: Path) -> None:
    for name in ("archive/deep", "data/keep/safe", "hidden", "in", "free"):
        (home / name).mkdir(parents=True, exist_ok=True)
        (home / name / "file").write_bytes(b"kept")
    for name, target in (
        ("to-archive", "archive"),
        ("to-data", "data"),
        ("to-hidden", "hidden"),
        ("to-in", "in"),
    ):
        if not (home / name).is_symlink():
            (home / name).symlink_to(target)


def test_read_only_users_change_nothing(ruled: Daemon) -> None:
    """A read-only user can read; every change gets 550 and changes nothing."""
    home = ruled.home("reader")
    _fill(home)
    before = snapshot(home)
    with withstands(ruled), secured(ruled, "reader") as client:
        assert client.download("RETR free/file") == b"kept"
        said = attempts(client, "free/file") + attempts(client, "free/new") + attempts(client, "to-archive/deep/file")
        assert "226 Transfer complete: 6" not in said
        for line in (
            "DELE free/file",
            "RMD free",
            "RMDA free",
            "RNFR free/file",
            "MKD x",
            "SITE CHMOD 777 free",
        ):
            client.expect(550, line)
        for line in (
            "SITE UTIME 20200101000000 free/file",
            "MFF modify=20200101000000; free/file",
            "MDTM 20200101000000 free/file",
        ):
            client.expect(550, line)
        client.passive_port()
        client.expect(550, "STOU")
    assert snapshot(home) == before


def test_upload_only_users_see_nothing(ruled: Daemon) -> None:
    """An upload-only user can store new files, and learns nothing about other files."""
    home = ruled.home("dropper")
    _fill(home)
    before = snapshot(home / "free")
    with withstands(ruled), secured(ruled, "dropper") as client:
        for line in ("LIST", "NLST", "MLSD", "RETR free/file", "STOR free/file", "APPE free/file"):
            client.passive_port()
            client.expect(550, line)
        for line in (
            "MLST free/file",
            "STAT free",
            "HASH free/file",
            "DELE free/file",
            "RNFR free/file",
            "RMD free",
        ):
            client.expect(550, line)
        assert client.upload("STOR free/new", b"new").startswith("226")
        (home / "free" / "new").unlink()
        os.utime(home / "free", (before[str(home / "free")][1],) * 2)
    assert snapshot(home / "free") == before


@pytest.mark.parametrize("way", ["archive", "to-archive", "free/../archive", "to-data/../archive"])
def test_rules_for_paths_hold_through_links(ruled: Daemon, way: str) -> None:
    """The rules of a read-only directory hold for everything below it, also through links."""
    home = ruled.home()
    _fill(home)
    before = snapshot(home / "archive")
    with withstands(ruled), secured(ruled) as client:
        assert client.download(f"RETR {way}/deep/file") == b"kept"
        for name in ("deep/file", "new", "deep/new"):
            attempts(client, f"{way}/{name}")
        for line in (f"DELE {way}/deep/file", f"RMD {way}/deep", f"RMDA {way}/deep", f"MKD {way}/x"):
            client.expect(550, line)
        if client.command(f"RNFR {way}/deep").startswith("350"):
            client.expect(550, "RNTO moved")
        client.expect(350, "RNFR free/file")
        client.expect(550, f"RNTO {way}/deep/file")
        client.expect(350, "RNFR free/file")
        client.expect(550, f"RNTO {way}/new")
    assert snapshot(home / "archive") == before


@pytest.mark.parametrize("line", ["RMDA data", "RMDA data/keep", "RMDA to-data/keep", "RNFR data", "RNFR to-data/keep"])
def test_protected_parts_protect_their_parents(ruled: Daemon, line: str) -> None:
    """A tree with a protected part can neither be deleted nor renamed, also not through links."""
    home = ruled.home()
    _fill(home)
    with withstands(ruled), secured(ruled) as client:
        reply = client.command(line)
        if reply.startswith("350"):
            reply = client.command("RNTO moved")
        assert reply.startswith("550"), reply
        assert (home / "data" / "keep" / "safe" / "file").read_bytes() == b"kept"


def test_renaming_over_protected_names(ruled: Daemon) -> None:
    """RNTO replaces a file only with the permission `overwrite`, and never puts a directory over a protected one."""
    home = ruled.home()
    _fill(home)
    with withstands(ruled), secured(ruled) as client:
        for target in (
            "archive/deep/file",
            "to-archive/deep/file",
            "data/keep/safe/file",
            "hidden/file",
            "in/file",
        ):
            client.expect(350, "RNFR free/file")
            assert client.command(f"RNTO {target}")[:3] in ("550", "553"), target
        client.expect(257, "MKD empty")
        for target in ("archive", "data/keep/safe", "hidden"):
            client.expect(350, "RNFR empty")
            client.expect(550, f"RNTO {target}")
        client.expect(350, "RNFR empty")
        client.expect(550, "RNTO /")
    for name in ("archive/deep", "data/keep/safe", "hidden", "in", "free"):
        assert (home / name / "file").read_bytes() == b"kept"


@pytest.mark.parametrize("way", ["hidden", "to-hidden"])
def test_no_facts_without_permission(ruled: Daemon, way: str) -> None:
    """Where the user has no permission at all, no size, time, fact or name is shown."""
    home = ruled.home()
    _fill(home)
    os.utime(home / "hidden" / "file", (1e9, 1e9))
    with withstands(ruled), secured(ruled) as client:
        said = attempts(client, f"{way}/file") + attempts(client, way)
        assert "kept" not in said and "20010909" not in said
        assert not re.search(r"^213 4$|size=4;|^2.. .*file$", said, re.MULTILINE), said
        assert not client.command(f"RNFR {way}/file").startswith("350")
        assert "/hidden:" not in client.download("LIST -R /").decode()


def test_append_and_overwrite_are_separate_permissions(ruled: Daemon) -> None:
    """A user with `append` but not `overwrite` can neither replace nor shorten a file, also not with REST."""
    home = ruled.home("bob")
    _fill(home)
    with withstands(ruled), secured(ruled, "bob") as client:
        client.passive_port()
        client.expect(550, "STOR free/file")
        client.expect(350, "REST 2")
        client.passive_port()
        client.expect(550, "STOR free/file")
        assert client.upload("APPE free/file", b" and more").startswith("226")
        client.passive_port()
        client.expect(550, "RETR free/file")
    assert (home / "free" / "file").read_bytes() == b"kept and more"


@pytest.mark.parametrize("target", ["data", "data/keep", "to-data/keep"])
def test_no_tree_is_renamed_over_a_rule(ruled: Daemon, target: str) -> None:
    """A directory cannot be renamed to a name below which the user lacks `rename`: other rules hold for names there."""
    home = ruled.home()
    _fill(home)
    (home / "data" / "keep" / "safe" / "file").unlink()
    (home / "data" / "keep" / "safe").rmdir()
    (home / "data" / "keep").rmdir()
    with withstands(ruled), secured(ruled) as client:
        name = f"tree-{target.replace('/', '-')}"
        client.expect(257, f"MKD {name}")
        client.expect(257, f"MKD {name}/keep")
        client.expect(257, f"MKD {name}/safe")
        client.expect(350, f"RNFR {name}")
        client.expect(550, f"RNTO {target}")
        client.expect(350, f"RNFR {name}")
        client.expect(250, f"RNTO data/other-{name}")
    assert not list((home / "data").glob("**/safe/safe"))
    assert not (home / "data" / "keep").exists()


def test_replacing_a_directory_needs_rmdir(ruled: Daemon) -> None:
    """RNTO replaces an empty directory only with the permission `rmdir`."""
    for user, code in (("mover", 553), ("alice", 250)):
        home = ruled.home(user)
        with withstands(ruled), secured(ruled, user) as client:
            for name in ("old-one", "new-one"):
                client.expect(257, f"MKD {name}")
            kept = (home / "new-one").stat().st_ino
            client.expect(350, "RNFR old-one")
            client.expect(code, "RNTO new-one")
            assert ((home / "new-one").stat().st_ino == kept) == (code == 553)
            client.upload("STOR old-file", b"old")
            client.upload("STOR new-file", b"new")
            client.expect(350, "RNFR new-file")
            client.expect(250, "RNTO old-file")  # which `overwrite` is for


@pytest.mark.parametrize("line", ["SITE CHMOD 700 {}", "MFMT 20200101000000 {}", "MDTM 20200101000000 {}"])
@pytest.mark.parametrize("name", ["/", ".", "..", "in/..", "to-root", "to-dot", "free/up", "MFF"])
def test_the_home_itself_stays_as_it_is(ruled: Daemon, line: str, name: str) -> None:
    """No command changes the mode or time of the home itself, by whatever name or link."""
    home = ruled.home()
    _fill(home)
    for link, target in (("to-root", str(home)), ("to-dot", "."), ("free/up", "..")):
        if not (home / link).is_symlink():
            (home / link).symlink_to(target)
    before = home.stat()
    if name == "MFF":
        line, name = "MFF Modify=20200101000000;UNIX.mode=700; {}", "/"
    with withstands(ruled), secured(ruled) as client:
        client.expect(550, line.format(name))
    assert (home.stat().st_mode, home.stat().st_mtime) == (before.st_mode, before.st_mtime)


def test_times_and_free_space_need_a_permission(ruled: Daemon) -> None:
    """MDTM needs `list` or `download`, AVBL needs `list`, and RNFR needs only `rename`."""
    for user in ("dropper", "namer", "taker", "reader"):
        home = ruled.home(user)
        _fill(home)
        with withstands(ruled), secured(ruled, user) as client:
            client.expect(213 if user in ("taker", "reader") else 550, "MDTM free/file")
            client.expect(213 if user == "reader" else 550, "AVBL")
            client.expect(213 if user == "reader" else 550, "AVBL free")
            client.expect(350 if user == "namer" else 550, "RNFR free/file")


def test_links_do_not_show_hidden_facts(ruled: Daemon) -> None:
    """LIST, MLSD, MLST, MDTM and AVBL do not show size or time of a link's target without permission there."""
    home = ruled.home()
    _fill(home)
    for part in ("hidden", "in"):
        target = home / part / "sized"
        target.write_bytes(b"s" * 4321)
        os.utime(target, (1e9, 1e9))
        for where in ("free", "archive"):
            if not (home / where / f"link-{part}").is_symlink():
                (home / where / f"link-{part}").symlink_to(f"../{part}/sized")
    with withstands(ruled), secured(ruled) as client:
        for where in ("free", "archive"):
            listings = [client.download(f"{verb} {where}").decode() for verb in ("LIST", "MLSD", "LIST -R")]
            said = "".join(listings) + client.command(f"STAT {where}")
            for part in ("hidden", "in"):
                assert f"link-{part}" in said
                for line in ("LIST {}", "NLST -l {}"):
                    said += client.download(line.format(f"{where}/link-{part}")).decode()
                for line in ("MLST {}", "MDTM {}", "SIZE {}", "STAT {}", "HASH {}"):
                    said += client.command(line.format(f"{where}/link-{part}"))
                client.expect(550, f"AVBL {where}/link-{part}")
            assert "4321" not in said and "2001" not in said, said
        assert "type=dir" in client.expect(250, "MLST to-data")
