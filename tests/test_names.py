"""Names that a user cannot create or see, and the mode of new files."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from unicodedata import normalize

import pytest

from ftpsd.protocol.name_rules import NameRules, folded, matcher
from tests.daemon import Daemon
from tests.disks import deep_tree
from tests.ftpclient import FtpClient, secured
from tests.hostile import attempts, snapshot, withstands
from tests.test_configuration import GOOD, USERS, faults, files

__all__ = ["files"]

RULES: dict[str, dict[str, Any]] = {
    "alice": {"names": {"deny": ["*.exe", ".ht*", "[a-c]?d", ".git", "upload.*"]}},
    "bob": {"names": {"hide": ["*.tmp", "hidden"]}},
    "open": {"umask": "002"},
    "close": {"umask": "0077"},
    "plain": {},
}


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon whose users have name rules or a umask."""
    daemon = Daemon(tmp_path_factory.mktemp("ruled"), certificate, users=RULES)
    daemon.start(("sh", "-c", 'umask 027; exec "$@"', "sh"))
    yield daemon
    daemon.stop()


def refused(client: FtpClient, line: str) -> str:
    """Return the reply to a transfer command that is refused before the transfer starts."""
    client.passive_port()
    return client.command(line)


# --- patterns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.exe", "X.EXE", ".exe", "a\nb.exe", "x.exe.", "x.exe . .", "\udcff.exe", "ß.Exe"])
def test_patterns(name: str) -> None:
    """A pattern ignores case and trailing dots and spaces, and matches names with any bytes."""
    match = matcher(["*.exe", "other"])
    assert match is not None
    assert match(name)
    assert not match(name + "x")
    assert not NameRules(match).allowed(("folder", name))
    assert not NameRules(None, match).allowed((name, "file"))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents(form: Literal["NFC", "NFD"]) -> None:
    """A pattern ignores whether accents are composed, in the pattern and in the name."""
    match = matcher([normalize(form, "*.exé")])
    assert match is not None
    assert match(normalize("NFC", "a.exé")) and match(normalize("NFD", "a.EXÉ"))
    assert not match("a.exe")


@pytest.mark.parametrize("name", ["\u0344\u0327" * 2000, "a" + "\u0301\u0327" * 2000 + "." * 90], ids=["marks", "dots"])
def test_a_name_that_no_disk_has_takes_no_time(name: str) -> None:
    """A long name of combining marks is compared in microseconds: to sort the marks would stop all sessions."""
    match = matcher(["*.exe", "über"])
    assert match is not None
    start = time.thread_time()
    for _ in range(20):
        folded(name)
        match(name)
    assert time.thread_time() - start < 0.1
    assert folded(name) == name.rstrip(".")
    assert not match(name)
    assert match(name + ".EXE")


@pytest.mark.parametrize("end", ["." * 300, " ." * 200, ". "])
def test_dots_at_the_end_make_no_name_long(end: str) -> None:
    """FAT ignores dots and spaces at the end, however many they are."""
    match = matcher(["über"])
    assert match is not None
    assert folded("Über" + end) == folded("u\u0308ber")
    assert match("ÜBER" + end)


def test_no_patterns() -> None:
    """Without patterns there is no matcher."""
    assert matcher([]) is None
    assert NameRules().allowed(("any", "name"))


FAULTS = [
    ("names: {deny: *.exe}", "not valid YAML"),
    ('names: {deny: "*.exe"}', "names.deny: must be a list."),
    ("names: {deny: [3]}", "names.deny[0]: 3 is not a string."),
    ("names: {deny: [in/x]}", "names.deny[0]: “in/x” is not a pattern for a name."),
    ('names: {hide: [""]}', "names.hide[0]: “” is not a pattern for a name."),
    ("names: {hid: []}", "names.hid: unknown key. Did you mean hide?"),
    ("umask: 022", 'umask: 18 is a number, not a umask. Write octal digits in quotes, as "022".'),
    ('umask: "22"', 'umask: “22” is not a umask. Write three octal digits in quotes, as "022".'),
    ('umask: "088"', "umask: “088” is not a umask."),
]


@pytest.mark.parametrize(("line", "expected"), FAULTS, ids=range(len(FAULTS)))
def test_faults(files: Path, line: str, expected: str) -> None:
    """An invalid rule is a fault with line and remedy."""
    found = faults(files, GOOD, USERS + f"    {line}\n")
    assert len(found) == 1
    assert found[0].startswith("users.yaml:5: ")
    assert expected in found[0]


# --- names that cannot be given ----------------------------------------------------------------------


def test_denied_names(ruled: Daemon) -> None:
    """STOR, APPE, STOU, RNTO and MKD of a denied name get 553 at every path, and change nothing."""
    home = ruled.home()
    (home / "folder").mkdir()
    (home / ".git").mkdir()
    (home / "old.EXE").write_bytes(b"old")
    (home / "harmless").write_bytes(b"harmless")
    (home / "link").symlink_to("old.EXE")
    before = snapshot(home)
    with withstands(ruled), secured(ruled) as client:
        for name in ("new.exe", "new.EXE", "folder/new.Exe", ".htaccess", "bad", ".git/config", "old.EXE", "x.exe. "):
            for line in (f"STOR {name}", f"APPE {name}"):
                assert refused(client, line) == f"553 /{name}: name not allowed.", name
            client.expect(553, f"MKD {name}")
            client.expect(350, "RNFR harmless")
            client.expect(553, f"RNTO {name}")
        assert refused(client, "STOU x.exe").startswith("553 ")
        assert refused(client, "STOU").startswith("553 ")  # upload.*
        assert refused(client, "STOR link").startswith("553 /old.EXE")
        assert snapshot(home) == before
        assert client.upload("STOR newexe", b"new").startswith("226 ")
        assert client.upload("STOU x", b"unique").startswith("226 ")


def test_denied_names_that_are_there(ruled: Daemon) -> None:
    """An existing file with a denied name can be listed, downloaded, renamed to another name and deleted."""
    (ruled.home() / "there.exe").write_bytes(b"there")
    (ruled.home() / "away.exe").write_bytes(b"away")
    with withstands(ruled), secured(ruled) as client:
        assert b"there.exe" in client.download("NLST")
        assert client.download("RETR there.exe") == b"there"
        client.expect(250, "DELE there.exe")
        client.expect(350, "RNFR away.exe")
        client.expect(250, "RNTO away")


# --- names that are not there ------------------------------------------------------------------------


def test_hidden_names(ruled: Daemon) -> None:
    """A hidden name is in no listing, and no command finds, creates or changes it, not even through a link."""
    home = ruled.home("bob")
    for folder in (home, home / "folder", home / "hidden"):
        folder.mkdir(exist_ok=True)
        (folder / "secret.tmp").write_bytes(b"sentinel")
        (folder / "seen").write_bytes(b"seen")
    (home / "way").symlink_to("folder/secret.tmp")
    (home / "door").symlink_to("hidden")
    before = snapshot(home)
    with withstands(ruled), secured(ruled, "bob") as client:
        for line in ("LIST -aR", "NLST", "MLSD", "NLST *.tmp", "LIST folder", "NLST h*", "NLST door"):
            said = listed(client, line)
            assert "secret" not in said and "hidden" not in said, (line, said)
        for name in ("secret.tmp", "SECRET.TMP", "folder/secret.tmp", "hidden", "hidden/seen"):
            said = attempts(client, name)
            assert "sentinel" not in said and "226" not in said, (name, said)
            for line in (f"DELE {name}", f"RMD {name}", f"RMDA {name}", f"RNFR {name}"):
                assert client.command(line) == "550 No such file or directory."
            client.expect(350, "RNFR folder/seen")
            client.expect(553, f"RNTO {name}")
        for name in ("way", "door", "door/seen"):  # as links that lead nowhere
            said = attempts(client, name)
            assert "sentinel" not in said and "seen" not in said.replace(name, ""), (name, said)
            client.expect(550, f"CWD {name}")
        assert snapshot(home) == before


def listed(client: FtpClient, line: str) -> str:
    """Return what a listing sends, or the reply that refuses it."""
    data = client.connect_data()
    reply = client.command(line)
    if not reply.startswith("150"):
        data.close()
        return ""
    with client.secure_data(data) as connection:
        said = b""
        while piece := connection.recv(65536):
            said += piece
        connection.unwrap()
    assert client.reply().startswith("226")
    return said.decode()


def test_a_directory_with_hidden_names_stays(ruled: Daemon) -> None:
    """RMD and RMDA do not delete files that the user cannot see."""
    home = ruled.home("bob")
    (home / "full" / "deep").mkdir(parents=True)
    (home / "full" / "deep" / "kept.tmp").touch()
    with withstands(ruled), secured(ruled, "bob") as client:
        client.expect(550, "RMD full/deep")
        client.expect(550, "RMDA full")
        with deep_tree(home / "full", 1_200):  # renames make trees deeper than a recursion and than a path
            client.expect(550, "RMDA full")
            assert (home / "full" / "deep" / "kept.tmp").exists()
            (home / "full" / "deep" / "kept.tmp").unlink()
            client.expect(250, "RMDA full")


# --- the mode of what is new -------------------------------------------------------------------------


@pytest.mark.parametrize(("user", "umask"), [("open", 0o002), ("close", 0o077), ("plain", 0o027)])
def test_umask(ruled: Daemon, user: str, umask: int) -> None:
    """The mode of new files and directories follows the user's umask, or without one the daemon's."""
    home = ruled.home(user)
    os.chmod(home, 0o2755)
    with withstands(ruled), secured(ruled, user) as client:
        client.expect(257, "MKD folder")
        assert client.upload("STOR folder/file", b"new").startswith("226 ")
        assert client.upload("STOU folder/file", b"new").startswith("226 ")
    for path in (home / "folder").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((home / "folder").stat().st_mode) == 0o2777 & ~umask
