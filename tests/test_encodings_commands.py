"""Every command with a path, for users of devices without UTF-8: names both ways, rules, quotas, patterns, resuming."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpsd.commands import TABLE
from tests.conftest import PLAIN
from tests.daemon import Daemon, merge
from tests.ftpclient import FtpClient

#: By user: the encoding, and a name that it has. Two bytes of 表 and ソ end in a backslash, one of ー in a bracket.
NAMES = {
    "old": ("cp1252", "grüße „ÿ“ €"),
    "euro": ("iso8859-15", "œuvre à 5 €ÿ"),
    "japan": ("shift_jis", "表ソー「日本」"),
}

#: All characters of a rule for paths.
RULED = "é日ソ"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon with one user for each encoding. Each has a quota, rules for names and paths, and a folder."""
    directory = tmp_path_factory.mktemp("commands")
    shared = directory / "shared"
    shared.mkdir()
    users: dict[str, Any] = {}
    for user, (encoding, name) in NAMES.items():
        users[user] = {
            "names": {"encoding": encoding, "deny": [f"*.{name[0]}x"], "hide": [f".{name}"]},
            "paths": {f"/closed {name}": "read-only"},
            "quota": {"bytes": 100_000},
            "folders": {f"/shared {name}": {"path": str(shared)}},
        }
    made = Daemon(directory, certificate, merge(PLAIN, {"limits": {"commands_per_second": None}}), users)
    for user, (_, name) in NAMES.items():
        (made.home(user) / f"closed {name}").mkdir(parents=True)
    yield made.start()
    made.stop()


class Session(FtpClient):
    """A session of a user; `name` is in the encoding of the user."""

    def __init__(self, daemon: Daemon, user: str) -> None:
        super().__init__(daemon)
        self.login(user)
        self.encoding, self.text = NAMES[user]
        self.home = daemon.home(user)
        self.shown = self.text.encode(self.encoding)
        self.used: set[str] = set()

    def raw(self, line: bytes) -> bytes:
        """Send a line; return the reply as it came, without doubled bytes 255."""
        self.used.add(line.split()[0].decode())
        self.send(line)
        return self.raw_reply().replace(b"\xff\xff", b"\xff")

    def good(self, code: int, verb: str, *before: bytes, name: bytes = b"") -> bytes:
        """Send a command with the name; return its reply, which must have this code."""
        reply = self.raw(b" ".join([verb.encode(), *before, name or self.shown]))
        assert reply.startswith(b"%d" % code), (verb, reply)
        return reply

    def sent(self, verb: str, data: bytes, name: bytes = b"") -> str:
        """Upload with a command; return the last reply."""
        self.used.add(verb)
        return self.upload(verb.encode() + b" " + (name or self.shown), data)

    def read(self, verb: str, name: bytes | None = None) -> bytes:
        """Return what a command sends on a data connection."""
        self.used.add(verb)
        return self.download(b" ".join([verb.encode(), *([] if name == b"" else [name or self.shown])]))


@pytest.fixture(params=NAMES)
def session(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[Session]:
    """A session of each user."""
    with Session(daemon, request.param) as made:
        yield made


def test_every_command(session: Session) -> None:
    """Each command that takes a path finds the right name on the disk, and each reply and listing has it as it was sent."""
    home, text, shown = session.home, session.text, session.shown
    file = home / text
    session.sent("STOR", b"0123456789")
    assert file.read_bytes() == b"0123456789"
    session.sent("APPE", b"abc")
    assert session.good(213, "SIZE") == b"213 13\r\n"
    assert session.read("RETR") == b"0123456789abc"
    assert session.raw(b"REST 10").startswith(b"350 ")
    assert session.read("RETR") == b"abc"
    assert session.raw(b"RANG 2 4").startswith(b"350 ")
    assert session.read("RETR") == b"234"
    assert session.raw(b"REST 10").startswith(b"350 ")
    session.sent("STOR", b"XYZ!")
    assert file.read_bytes() == b"0123456789XYZ!"
    assert session.good(213, "HASH").endswith(b"/" + shown + b"\r\n")
    assert session.good(213, "MDTM").startswith(b"213 20")
    session.good(213, "MFMT", b"20200102030405")
    session.good(213, "MFF", b"modify=20200102030405;")
    assert session.good(213, "MDTM") == b"213 20200102030405\r\n"
    assert session.good(250, "MLST").split(b"\r\n")[1].endswith(b" /" + shown)
    session.good(200, "SITE CHMOD", b"640")
    assert file.stat().st_mode & 0o777 == 0o640
    session.good(200, "SITE UTIME", b"20210102030405")
    for verb in ("LIST", "NLST"):
        assert session.read(verb).endswith(shown + b"\r\n")
    assert shown in session.good(213, "STAT")
    assert session.raw(b"RNFR " + shown).startswith(b"350 ")
    session.good(250, "RNTO", name=b"2" + shown)
    assert (home / f"2{text}").exists() and not file.exists()
    session.good(250, "DELE", name=b"2" + shown)
    for make, enter, leave, remove in (("MKD", "CWD", "CDUP", "RMD"), ("XMKD", "XCWD", "XCUP", "XRMD")):
        assert b'"/' + shown + b'"' in session.good(257, make)
        assert file.is_dir()
        session.good(250, enter)
        for verb in (b"PWD", b"XPWD"):
            assert session.raw(verb).startswith(b'257 "/' + shown + b'"')
        session.used.add("STOU")
        connection = session.connect_data()
        unique = session.raw(b"STOU " + shown)
        assert unique.startswith(b"150 FILE: " + shown + b"."), unique
        connection.close()
        assert session.raw_reply().replace(b"\xff\xff", b"\xff").startswith(b"226 ")
        (stored,) = os.listdir(file)
        assert stored.startswith(text + ".")
        assert session.read("NLST", b"") == stored.encode(session.encoding) + b"\r\n"
        assert stored.encode(session.encoding) in session.read("MLSD", b"")
        session.good(250, "DELE", name=stored.encode(session.encoding))
        session.raw(leave.encode())
        assert session.read("MLSD") == b""
        session.good(213, "AVBL")
        session.good(250, remove)
    session.good(257, "MKD")
    session.good(250, "RMDA")
    assert not file.exists()
    with_path = {verb for verb, row in TABLE.items() if getattr(row.parse, "__name__", "") in PARSERS}
    assert with_path <= session.used | {"SITE"}, with_path - session.used


#: The functions that take a path from an argument.
PARSERS = {
    "name", "name_or_upload", "listing", "name_or_here", "maybe_time_and_name", "time_and_name", "facts_and_name",
}  # fmt: skip


def test_patterns(session: Session) -> None:
    """A pattern is of characters, not of bytes: a byte of a character is no bracket, and ? stands for a character."""
    text, encode = session.text, lambda name: name.encode(session.encoding)
    names = [f"{text}{number}.txt" for number in range(3)]
    for name in names:
        (session.home / name).write_bytes(b"x")
    wanted = {encode(name) for name in names}
    for pattern in (f"{text}*", f"{text[0]}*.txt", f"{text}?.txt", f"{'?' * len(text)}[0-2].txt", f"*{text[-1]}?.txt"):
        assert set(session.read("NLST", encode(pattern)).removesuffix(b"\r\n").split(b"\r\n")) == wanted, pattern
        listed = session.read("LIST", encode(pattern)).removesuffix(b"\r\n").split(b"\r\n")
        assert sorted(line[-len(encode(names[0])) :] for line in listed) == sorted(wanted)
    for name in names:
        session.good(250, "DELE", name=encode(name))


def test_rules_quotas_and_folders(session: Session, daemon: Daemon) -> None:
    """Rules for names and paths, quotas and folders hold for names in the encoding of the user."""
    text, shown, encoding = session.text, session.shown, session.encoding
    assert session.raw(b"MKD " + f"a.{text[0]}x".encode(encoding))[:3] in (b"550", b"553")
    closed = f"closed {text}".encode(encoding)
    for line in (b"MKD " + closed + b"/x", b"RMD " + closed, b"DELE " + closed + b"/" + shown):
        assert session.raw(line).startswith(b"550 "), line
    (session.home / f".{text}").touch()
    assert b"." + shown not in session.read("NLST", b"").split(b"\r\n")
    (session.home / f".{text}").unlink()
    assert session.sent("STOR", bytes(60_000)).startswith("226 ")
    assert session.sent("STOR", bytes(60_000), b"2" + shown).startswith("552 ")
    session.good(250, "DELE")
    session.raw(b"DELE 2" + shown)
    folder = f"shared {text}".encode(encoding)
    assert folder in session.read("NLST", b"").split(b"\r\n")
    assert session.sent("STOR", b"x", folder + b"/" + shown).startswith("226 ")
    assert (daemon.directory / "shared" / text).read_bytes() == b"x"
    session.raw(b"RNFR " + folder)
    assert session.raw(b"RNTO " + shown)[:3] in (b"550", b"553")
    assert session.raw(b"RMD " + folder).startswith(b"550 ")
    session.good(250, "DELE", name=folder + b"/" + shown)


def test_utf8_on_for_every_encoding(session: Session) -> None:
    """After OPTS UTF8 ON all commands and listings are in UTF-8, and after OFF in the encoding of the user again."""
    text, utf8 = session.text, session.text.encode()
    assert session.raw(b"OPTS UTF8 ON").startswith(b"200 ")
    assert session.sent("STOR", b"utf8", utf8).startswith("226 ")
    assert (session.home / text).read_bytes() == b"utf8"
    for verb in ("NLST", "LIST", "MLSD"):
        assert utf8 + b"\r\n" in session.read(verb, b"")
    assert session.good(213, "HASH", name=utf8).endswith(utf8 + b"\r\n")
    assert session.raw(b"OPTS UTF8 OFF").startswith(b"200 ")
    assert session.read("RETR") == b"utf8"
    session.good(250, "DELE")
