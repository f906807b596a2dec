"""Disks on which different names mean the same file: rules hold for all of these names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpsd.protocol.name_rules import folded, matcher
from ftpsd.protocol.permissions import PROFILES, Permissions
from tests.daemon import Daemon
from tests.disks import FoldingDisk
from tests.faulty import IGNORED
from tests.ftpclient import FtpClient, secured
from tests.hostile import attempts, snapshot, withstands

RULES: dict[str, dict[str, Any]] = {
    "alice": {
        "paths": {
            "/archive": "read-only",
            "/data/keep/safe": "read-only",
            "/hidden": [],
            "/caf\u00e9": "read-only",
            "/new": "read-only",
            "/made/by/rule": "read-only",
            "/note.txt": "read-only",
        }
    },
    "bob": {"names": {"deny": ["*.exe", "stra\u00dfe"], "hide": ["secret*", "\u00fcber"]}},
    "carol": {"permissions": "read-only", "paths": {"/incoming": ["list", "upload", "mkdir"]}},
    "erin": {"permissions": ["list", "rename"]},
    "dave": {"quota": {"files": 3, "bytes": "10K"}},
    "frank": {"folders": {"/lead/on/shared": {"path": "SHARED", "permissions": "read-write"}}},
}
FILES = {
    "alice": ["archive/deep/file", "data/keep/safe/file", "HIDDEN/file", "caf\u00e9/file", "free/file", "NOTE.TXT"],
    "bob": ["secretplace/file", "\u00fcber/file", ".FTPSD-PART-x", ".ftpsd-part-aa", "plain/file"],
    "carol": ["INCOMING/file"],
    "dave": ["file"],
    "erin": ["file", "other", "folder/x", "empty/x"],
    "frank": ["lead/on/shared/covered", "lead/on/file"],
}


@pytest.fixture(scope="module", params=["fuse", "ntfs", "vfat", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FoldingDisk:
    """A disk with homes on it."""
    disk = FoldingDisk(request.param, tmp_path_factory.mktemp("folding") / "homes")
    for user, names in FILES.items():
        for name in names:
            path = disk.seed / user / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"kept")
    return disk


@pytest.fixture(scope="module")
def folding(disk: FoldingDisk, certificate: Path) -> Iterator[Daemon]:
    """A daemon with its homes on such a disk."""
    shared = disk.directory.parent / "elsewhere"
    shared.mkdir()
    (shared / "inside").write_bytes(b"kept")
    RULES["frank"]["folders"]["/lead/on/shared"]["path"] = str(shared)
    daemon = Daemon(disk.directory.parent, certificate, users=RULES)
    daemon.start(disk.mount())
    yield daemon
    daemon.stop()


def refused(client: FtpClient, line: str) -> str:
    """Return the code of a transfer command that is refused before the transfer."""
    client.passive_port()
    return client.command(line)[:3]


SPELLINGS = ["archive", "ARCHIVE", "Archive", "archive.", "ARCHIV~1", "archiv~1", "arch\u200bive", "arch\u0131ve"]


@pytest.mark.parametrize("name", [*SPELLINGS, "CAFE\u0301", "caf\u00c9"])
def test_rules_for_paths(folding: Daemon, disk: FoldingDisk, name: str) -> None:
    """With `/archive: read-only` nothing below it changes, whichever spelling the disk accepts."""
    home = disk.inside(folding.pid) / "alice"
    before = snapshot(home)
    with withstands(folding), secured(folding) as client:
        for line in (
            f"DELE {name}/file",
            f"DELE {name}/deep/file",
            f"RMDA {name}",
            f"RMD {name}/deep",
            f"MKD {name}/x",
        ):
            assert client.command(line).startswith("550"), line
        for line in (f"STOR {name}/file", f"STOR {name}/new", f"APPE {name}/file", f"STOR {name}/deep/FILE"):
            assert refused(client, line) == "550", line
        for line in (f"SITE CHMOD 700 {name}/file", f"MFMT 20200101000000 {name}/file", f"SITE CHMOD 700 {name}"):
            assert client.command(line).startswith("550"), line
        if client.command(f"RNFR {name}").startswith("350"):
            client.expect(550, "RNTO moved")
        client.expect(350, "RNFR free/file")
        assert client.command(f"RNTO {name}/file").startswith("550")
    assert snapshot(home) == before


@pytest.mark.parametrize("line", ["RMDA DATA", "RMDA data/KEEP", "RMDA Data/keep/Safe", "RNFR DATA", "RNFR data/KEEP"])
def test_trees_above_rules(folding: Daemon, disk: FoldingDisk, line: str) -> None:
    """A tree with a part that may not be deleted or renamed stays, whatever the spelling."""
    with withstands(folding), secured(folding) as client:
        reply = client.command(line)
        if reply.startswith("350"):
            reply = client.command("RNTO moved")
        assert reply.startswith("550"), reply
    assert (disk.inside(folding.pid) / "alice/data/keep/safe/file").read_bytes() == b"kept"


def test_names_that_do_not_exist_yet(folding: Daemon, disk: FoldingDisk) -> None:
    """A rule for a name that does not exist yet holds for every spelling that the disk may accept."""
    with withstands(folding), secured(folding) as client:
        client.expect(257, "MKD source")
        client.expect(257, "MKD source/by")
        for name in ("new", "NEW", "New.", "\u200bnew", "n\U000e0100ew"):
            assert client.command(f"MKD {name}").startswith("550"), name
            assert refused(client, f"STOR {name}") == "550"
            client.expect(350, "RNFR source")
            client.expect(550, f"RNTO {name}")
        client.expect(257, "MKD MADE")
        client.expect(350, "RNFR source/by")
        client.expect(550, "RNTO made/BY")
        client.expect(250, "RMD made")
        client.expect(250, "RMDA source")


def test_another_spelling_replaces_nothing(folding: Daemon) -> None:
    """Without `overwrite` and `rmdir` a file can be renamed to its own name in capitals, not to that of another file."""
    with withstands(folding), secured(folding, "erin") as client:
        for name in ("file", "folder"):
            client.expect(350, f"RNFR {name}")
            client.expect(250, f"RNTO {name.upper()}")
            client.expect(350, f"RNFR {name}")
            client.expect(553, "RNTO OTHER" if name == "file" else "RNTO Empty")


def test_no_facts_without_permission(folding: Daemon) -> None:
    """With `/hidden: []` the disk's HIDDEN is not listed, and no fact of it is shown."""
    with withstands(folding), secured(folding) as client:
        for line in ("LIST", "NLST", "MLSD", "LIST -aR", "NLST h*", "NLST H*"):
            assert "hidden" not in client.download(line).decode().lower(), line
        for name in ("hidden", "HIDDEN", "Hidden/file"):
            said = attempts(client, name)
            assert "kept" not in said and "226" not in said, (name, said)


def test_rules_that_permit_more(folding: Daemon) -> None:
    """A rule that permits more holds for the directory as the disk spells it, and a file's rule for its other names."""
    with withstands(folding), secured(folding, "carol") as client:
        assert client.upload("STOR INCOMING/one", b"1").startswith("226")
        assert client.upload("STOR incoming/two", b"2").startswith("226")
        client.expect(257, "MKD Incoming/sub")
        assert refused(client, "STOR other") == "550"
        assert refused(client, "STOR INCOMING/file") == "550"  # not to overwrite
    with secured(folding) as client:
        for name in ("note.txt", "NOTE.TXT", "Note.Txt"):
            client.expect(550, f"DELE {name}")


@pytest.mark.parametrize(
    "name",
    ["secretplace", "SECRETPLACE", "SECRET~1", "secre\u200btplace", "s\ufff0ecretplace", "U\u0308BER", "\u00dcber"],
)
def test_hidden_names(folding: Daemon, name: str) -> None:
    """A hidden name is hidden in every spelling."""
    with withstands(folding), secured(folding, "bob") as client:
        for line in (f"CWD {name}", f"DELE {name}/file", f"RMDA {name}", f"RNFR {name}", f"SIZE {name}/file"):
            assert client.command(line).startswith("550"), line
        assert refused(client, f"RETR {name}/file") == "550"


@pytest.mark.parametrize(
    "name", ["x.EXE", "x.exe.", "STRASSE", "stra\u200bsse", "Stra\u1e9ee", "x.e\u200bxe", "x.e\u2065xe"]
)
def test_denied_names(folding: Daemon, name: str) -> None:
    """A denied name cannot be created in any spelling that the disk may accept."""
    with withstands(folding), secured(folding, "bob") as client:
        assert refused(client, f"STOR {name}") == "553"
        client.expect(553, f"MKD {name}")


NAMES_OF_PARTS = (".FTPSD-PART-x", ".ftpsd-part-X", ".FTPSD\u200b-part-x", *(f".ftpsd{x}-part-x" for x in IGNORED))


def test_names_of_parts(folding: Daemon) -> None:
    """Names of part files cannot be listed or used, whatever their case, nor by their short names."""
    with withstands(folding), secured(folding, "bob") as client:
        for line in ("LIST -a", "NLST -a", "MLSD"):
            assert "ftpsd-part" not in client.download(line).decode().lower()
        for name in (*NAMES_OF_PARTS, "FTPSD-~1", ".ftpsd-part-AA"):
            for line in (f"DELE {name}", f"SIZE {name}", f"RNFR {name}"):
                assert client.command(line).startswith("550"), line
            assert refused(client, f"RETR {name}") == "550"


@pytest.mark.parametrize("name", ["LEAD", "lead/ON", "Lead/On", "LEAD/ON/SHARED", "lead/on/Shared"])
def test_what_leads_to_a_folder_stays(folding: Daemon, disk: FoldingDisk, name: str) -> None:
    """No spelling of a directory that leads to a folder, or is covered by one, changes it or shows what is covered."""
    home = disk.inside(folding.pid) / "frank"
    before = snapshot(home)
    with withstands(folding), secured(folding, "frank") as client:
        assert client.download("RETR lead/on/shared/inside") == b"kept"
        for line in (f"RMDA {name}", f"RMD {name}", f"SITE CHMOD 700 {name}", f"MFMT 20200101000000 {name}"):
            assert client.command(line).startswith("550"), line
        if client.command(f"RNFR {name}").startswith("350"):
            client.expect(550, "RNTO moved")
        assert refused(client, f"RETR {name}/covered") == "550"
        assert b"covered" not in client.download(f"NLST {name}") if "SHARED" not in name.upper() else True
        assert refused(client, "RETR LEAD/on/SHARED/covered") == "550"
        client.expect(350, "RNFR lead/on/file")
        client.expect(250, "RNTO lead/on/FILE")
        client.expect(350, "RNFR LEAD/on/FILE")
        client.expect(250, "RNTO lead/ON/file")
    assert snapshot(home) == before


def test_quota(folding: Daemon, disk: FoldingDisk) -> None:
    """A file that is replaced, renamed and removed under other spellings is counted once."""
    home = disk.inside(folding.pid) / "dave"
    with withstands(folding), secured(folding, "dave") as client:
        for name, data in (("FILE", b"1234"), ("file", b"12345"), ("FILE", b"")):
            assert client.upload(f"STOR {name}", data).startswith("226")
        assert client.upload("STOR one", b"1").startswith("226")
        client.expect(350, "RNFR ONE")
        client.expect(250, "RNTO oNe")
        client.expect(350, "RNFR one")
        client.expect(250, "RNTO File")
        said = client.expect(200, "SITE QUOTA")
        files = [each for each in home.iterdir() if each.is_file()]
        assert f"Files: {len(files)} of 3" in said and "Bytes: 1 of" in said, said
        client.expect(250, "DELE FILE")
        assert "Files: 0 of 3" in client.expect(200, "SITE QUOTA")


# --- the words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a", "A"),
        ("\u00e9", "E\u0301"),
        ("stra\u00dfe", "STRASSE"),
        ("a", "a. "),
        ("ab", "a\u200db"),
        ("\u212a", "k"),
        ("I", "\u0131"),
    ],
)
def test_folded(one: str, other: str) -> None:
    """Names that some disk takes for the same have the same folded form; names of dots only stay unchanged."""
    assert folded(one) == folded(other)
    assert folded("...") == "..." and folded("a.b") != folded("ab")
    match = matcher([one])
    assert match is not None and match(other)


def test_characters_that_unicode_ignores() -> None:
    """A name with characters that Unicode ignores is the name without them: a disk with casefold takes them for one."""
    for each in IGNORED:
        assert folded(f"a{each}b") == "ab", hex(ord(each))


def test_rules_are_combined() -> None:
    """If two rules may be meant, the stricter one holds; the rule with the exact spelling holds alone."""
    rules = Permissions(PROFILES["read-write"], {("in",): PROFILES["upload-only"], ("IN",): PROFILES["read-only"]})
    assert rules.at(("in", "x")) == PROFILES["upload-only"]
    assert rules.at(("In",)) == PROFILES["read-write"]
    assert rules.strictly(("In",)) == frozenset()
    assert rules.possibly(("In",)) == PROFILES["read-write"]
    assert not rules.throughout(("IN",), "rename") and rules.throughout(("other",), "rename", strictly=True)
