"""Names of devices without UTF-8: `names.encoding` of a user, both ways, in every command and listing."""

from __future__ import annotations

import ftplib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpsd.cli.main import main
from ftpsd.protocol import parsing
from ftpsd.protocol.encoding.names import UTF8, NameEncoding, Undecodable, find
from ftpsd.protocol.encoding.supported import ENCODINGS, SUBSTITUTES
from ftpsd.protocol.replies import Reply
from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon, merge
from tests.ftpclient import FtpClient

#: Encodings in which some byte sequences mean the same character. The one that the codec writes is listed.
WITH_DUPLICATES = ("cp932", "cp950", "big5")


def encoding(name: str) -> NameEncoding:
    """Return an encoding."""
    found = find(name)
    assert found is not None
    return found


def characters(codec: str) -> dict[bytes, str]:
    """Return all characters of one or two bytes, by their bytes, in the spelling that the codec writes."""
    sequences = [bytes([first]) for first in range(256)]
    sequences += [bytes([first, second]) for first in range(128, 256) for second in range(256)]
    found = {}
    for each in sequences:
        try:
            text = each.decode(codec)
            if len(text) == 1 and text.encode(codec) == each:
                found[each] = text
        except UnicodeError:
            continue
    return found


# --- the encodings -------------------------------------------------------------------------------------


@pytest.mark.quick
@pytest.mark.parametrize("name", sorted(ENCODINGS))
def test_ascii_is_ascii(name: str) -> None:
    """Each ASCII byte is its character and nothing else: no other byte can become a slash, a dot or a line end."""
    assert all(bytes([byte]).decode(name) == chr(byte) for byte in range(128))
    for raw, text in characters(name).items():
        assert text.isascii() == (raw < b"\x80")
        assert text.isascii() or min(raw) >= 0x30


@pytest.mark.quick
@pytest.mark.parametrize("name", sorted(SUBSTITUTES))
def test_substitutes(name: str) -> None:
    """The table has every character that the codec replaces by a similar one."""
    replaced = []
    for number in [*range(0xD800), *range(0xE000, 0x10000)]:
        try:
            raw = chr(number).encode(name)
        except UnicodeEncodeError:
            continue
        if raw.decode(name, "replace") != chr(number):
            replaced.append(chr(number))
    assert "".join(replaced) == SUBSTITUTES[name]


@pytest.mark.quick
def test_other_encodings_replace_nothing() -> None:
    """No codec without a row in the table replaces characters, as far as they have one or two bytes."""
    for name in ENCODINGS - SUBSTITUTES.keys():
        for number in range(0x80, 0x3000):
            try:
                assert chr(number).encode(name).decode(name) == chr(number), (name, hex(number))
            except UnicodeEncodeError:
                continue


@pytest.mark.quick
@pytest.mark.parametrize(
    "name", ["utf-16", "utf-7", "iso2022_jp", "hz", "cp037", "shift_jis_2004", "punycode", "base64", "no", ""]
)
def test_not_supported(name: str) -> None:
    """Encodings in which ASCII bytes mean something else, and what is none for text, are refused."""
    assert find(name) is None


@pytest.mark.quick
def test_spellings() -> None:
    """An encoding is found by each name that Python knows."""
    assert encoding("Windows-1252").name == encoding("CP1252").name == "cp1252"
    assert encoding("latin-1").name == "iso8859-1" and encoding("SJIS").name == "shift_jis"
    assert find("UTF8") is UTF8 is find("utf-8")


NAMES = st.text(
    st.one_of(st.characters(blacklist_categories=("Cs",)), st.sampled_from("%{}2565E0ADC¥é日\udc80\udcff")), max_size=12
)


@pytest.mark.quick
@given(NAMES, st.sampled_from(sorted(ENCODINGS)))
def test_every_name_comes_back(text: str, name: str) -> None:
    """Whatever a name on the disk is, a client that sends back what it was shown gets that name."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")  # as the disk has it
    shown = encoding(name).encode(text)
    assert encoding(name).decode(shown) == text
    assert shown.decode(name).count("%") >= text.count("%")


@pytest.mark.quick
@given(st.binary(max_size=20), st.sampled_from(sorted(ENCODINGS)))
def test_every_line_is_read(raw: bytes, name: str) -> None:
    """No bytes break the conversion, and what it accepts has one spelling on the disk."""
    text = encoding(name).decode(raw)
    if not isinstance(text, Undecodable):
        disk = os.fsencode(text)
        assert os.fsdecode(disk) == text
        assert b"/" in raw or b"/" not in disk


@pytest.mark.quick
def test_escapes() -> None:
    """A character that the encoding lacks has its number; what is no escape stays plain text."""
    cp1252, utf8 = encoding("cp1252"), "日".encode()
    for text, shown in {
        "日": b"%{65E5}",
        "é日": b"\xe9%{65E5}",
        "\udc80": b"%{DC80}",
        "\U0001f4c1": b"%{1F4C1}",
        "100%": b"100%",
        "%{}": b"%{}",
        "%{41}": b"%{41}",
        "%{2F}": b"%{2F}",
        "%{65e5}": b"%{65e5}",
        "%{065E5}": b"%{065E5}",
        "%{D800}": b"%{D800}",
        "%{FFFFFF}": b"%{FFFFFF}",
        "%{65E5}": b"%{25}{65E5}",
        "%{25}": b"%{25}",
        "%{25}{": b"%{25}{25}{",
    }.items():
        assert (cp1252.encode(text), cp1252.decode(shown)) == (shown, text)
    escaped = b"".join(b"%%{DC%02X}" % byte for byte in utf8)
    assert cp1252.decode(escaped) == "日"  # not another spelling, which no rule for names would know


@pytest.mark.quick
def test_lines_and_replies() -> None:
    """Arguments and replies are converted; credentials are UTF-8; byte 255 is a letter, doubled or not."""
    latin = encoding("iso8859-1")
    assert parsing.line(b"CWD gr\xfc\xdfe", latin) == ("CWD", "grüße")
    assert parsing.line("USER grüße".encode(), latin) == ("USER", "grüße")
    assert parsing.line(b"CWD a\xff\xffb\xff\xf4", latin) == ("CWD", "aÿbÿô")
    assert parsing.line(b"\xff\xf4\xff\xf2ABOR", latin) == ("ABOR", "")
    assert Reply(257, '"/grüße/日" is current.').encode(latin) == b'257 "/gr\xfc\xdfe/%{65E5}" is current.\r\n'
    assert Reply(250, "a", "%{65E5}", "ÿ").encode(latin) == b"250-a\r\n%{25}{65E5}\r\n250 \xff\xff\r\n"


# --- the daemon ----------------------------------------------------------------------------------------


#: One user for each encoding under test, all with the home of Alice, who has UTF-8.
USERS = {"old": "cp1252", "euro": "iso8859-15", "japan": "shift_jis", "windows": "cp932", "latin": "iso8859-1"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon with users of different encodings."""
    users: dict[str, Any] = {name: {"names": {"encoding": each}} for name, each in USERS.items()}
    users["denied"] = {"names": {"encoding": "cp1252", "deny": ["*日", "*ü"]}, "paths": {"/日": "read-only"}}
    limits = {"limits": {"commands_per_second": None}}
    made = Daemon(tmp_path_factory.mktemp("encodings"), certificate, merge(PLAIN, limits), {"alice": {}, **users})
    yield made.start()
    made.stop()


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Callable[[str], FtpClient]]:
    """Return a function that logs a user in."""
    made: list[FtpClient] = []

    def log_in(user: str) -> FtpClient:
        made.append(FtpClient(daemon))
        return made[-1].login(user)

    yield log_in
    for each in made:
        each.socket.close()


def on_disk(daemon: Daemon, user: str, *below: str) -> list[str]:
    """Return the names in a directory of a home."""
    return sorted(os.listdir(daemon.home(user).joinpath(*below)))


def raw(client: FtpClient, line: bytes) -> bytes:
    """Send a line; return the reply as it came."""
    client.send(line)
    return client.raw_reply()


@pytest.mark.parametrize("user", USERS)
def test_every_character(daemon: Daemon, client: Callable[[str], FtpClient], user: str) -> None:
    """Each character of the encoding makes a name that is right on the disk, and that comes back byte by byte."""
    codec = USERS[user]
    usable = {each: text for each, text in characters(codec).items() if text.isprintable() and text not in "/ "}
    assert len(usable) > {"shift_jis": 6800, "cp932": 7000}.get(codec, 180)
    session, home = client(user), daemon.home(user)
    parts, names = iter(usable.items()), {}
    while some := list(islice(parts, 80)):  # names of 80 characters, at most 240 bytes
        names[b"x" + b"".join(each for each, _ in some)] = "x" + "".join(text for _, text in some)
    session.expect(257, "MKD all")
    session.expect(250, "CWD all")
    for sent in names:
        assert raw(session, b"MKD " + sent).startswith(b"257 "), sent
    assert on_disk(daemon, user, "all") == sorted(names.values())
    assert set(session.download("NLST").split(b"\r\n")) == {*names, b""}
    listed = {line.partition(b"; ")[2] for line in session.download("MLSD").split(b"\r\n") if b"type=dir" in line}
    assert listed == set(names)
    assert {line[-len(name) :] for line, name in _paired(session.download("LIST"), names)} == set(names)
    for sent, text in names.items():
        quoted = sent.replace(b'"', b'""').replace(b"\xff", b"\xff\xff")
        assert raw(session, b"CWD " + sent).startswith(b"250 ")
        assert raw(session, b"PWD") == b'257 "/all/' + quoted + b'" is the current directory.\r\n', text
        assert raw(session, b"CDUP").startswith(b"250 ")
        assert raw(session, b"RNFR " + sent).startswith(b"350 ")
        assert raw(session, b"RNTO " + sent + b".2").startswith(b"250 ")
        assert raw(session, b"RMD " + sent + b".2").startswith(b"250 ")
    assert on_disk(daemon, user, "all") == []
    (home / "all").rmdir()


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("windows", b"\x81\x40"),
        ("windows", b"a\x81\x40"),
        ("old", b"\xa0"),
        ("alice", b"\xe3\x80\x80"),
        ("alice", b"\x1c"),
    ],
)
def test_other_spaces_are_letters(daemon: Daemon, client: Callable[[str], FtpClient], user: str, name: bytes) -> None:
    """Names of or with a space that is not ASCII's, such as the wide one of Japanese devices, are kept as sent."""
    session = client(user)
    session.expect(257, b"MKD " + name)
    assert raw(session, b"STAT " + name).startswith(b"213-Status of /" + name + b":\r\n")
    assert raw(session, b"RMD " + name).startswith(b"250 ")
    data = session.connect_data()
    assert raw(session, b"STOU " + name).startswith(b"150 FILE: " + name + b".")
    data.close()
    stored = session.reply()
    assert stored.startswith("226 ")
    (made,) = on_disk(daemon, user)
    (daemon.home(user) / made).unlink()


def _paired(listing: bytes, names: dict[bytes, str]) -> list[tuple[bytes, bytes]]:
    lines = [line for line in listing.split(b"\r\n") if line]
    assert len(lines) == len(names)
    return [(line, name) for line in lines for name in names if line.endswith(b" " + name)]


@pytest.mark.parametrize("user", ["old", "japan"])
def test_bytes_without_a_character(daemon: Daemon, client: Callable[[str], FtpClient], user: str) -> None:
    """A name with bytes that the encoding does not define is refused with a sentence, and nothing is made of it."""
    session = client(user)
    before = on_disk(daemon, user)
    defined = characters(USERS[user])
    undefined = [each for each in (bytes([byte]) for byte in range(128, 256)) if each not in defined]
    assert (b"\x81" in undefined) and len(undefined) >= 5
    for each in undefined:
        for line in (b"MKD x" + each, b"CWD " + each, b"STOR " + each, b"RNTO " + each, b"SITE CHMOD 644 " + each):
            reply = raw(session, line)
            assert reply.startswith(b"553 Name is not valid in " + USERS[user].encode()), line
    assert on_disk(daemon, user) == before


def test_a_refused_name_ends_a_restart(client: Callable[[str], FtpClient], daemon: Daemon) -> None:
    """REST holds for the next transfer command, also if its name is refused."""
    session = client("old")
    session.expect(200, "TYPE I")
    session.expect(350, "REST 3")
    session.expect(229, "EPSV")
    assert raw(session, b"STOR \x81").startswith(b"553 ")
    assert session.upload("STOR whole", b"012345").startswith("226 ")
    assert (daemon.home("old") / "whole").read_bytes() == b"012345"
    session.expect(250, "DELE whole")


def test_names_that_cannot_be_shown(daemon: Daemon, client: Callable[[str], FtpClient]) -> None:
    """Names that the encoding lacks are listed as escapes, with which every command works."""
    home = daemon.home("old")
    names = {"日本.txt": b"%{65E5}%{672C}.txt", "%{65E5}": b"%{25}{65E5}", "ü": b"\xfc"}
    for number, name in enumerate(names):
        (home / name).write_text(str(number))
    (Path(os.fsdecode(os.fsencode(home) + b"/\x80\xff"))).write_text("3")
    session = client("old")
    shown = [*names.values(), b"%{DC80}%{DCFF}"]
    assert set(session.download("NLST").split(b"\r\n")) == {*shown, b""}
    session.expect(200, "TYPE I")
    for number, name in enumerate(shown):
        assert session.download(b"RETR " + name) == str(number).encode()
        assert raw(session, b"MLST " + name).split(b"\r\n")[1].endswith(b"/" + name)
        assert session.download(b"LIST " + name).endswith(b" " + name + b"\r\n")
        assert raw(session, b"STAT " + name).split(b"\r\n")[1].endswith(b" " + name)
        assert raw(session, b"DELE " + name).startswith(b"250 ")
    assert on_disk(daemon, "old") == []


def test_the_jail(daemon: Daemon, client: Callable[[str], FtpClient]) -> None:
    """No bytes and no escapes lead out of the home, or around the rules for names and paths."""
    secret = daemon.directory / "homes" / "secret"
    secret.write_text("secret")
    session = client("japan")
    for name in (
        b"../secret",
        b"%{2E}%{2E}/secret",
        b"..%{2F}secret",
        b"\x81\x5c../../secret",
        b"%{DC2E}%{DC2E}/secret",
    ):
        session.expect(200, "TYPE I")
        session.expect(229, "EPSV")
        assert raw(session, b"RETR " + name)[:3] in (b"550", b"553"), name
    for name in (b"a%{00}b", b"a%{0A}b", b"a%{0D}b", b"%{2F}x"):
        assert raw(session, b"MKD " + name).startswith(b"257 ")
        assert os.fsdecode(name) in on_disk(daemon, "japan")
        assert raw(session, b"RMD " + name).startswith(b"250 ")
    denied = client("denied")
    (daemon.home("denied") / "日").mkdir()
    utf8 = b"".join(b"%%{DC%02X}" % byte for byte in "日".encode())
    for name in (b"x%{65E5}", b"x" + utf8, b"x\xfc"):
        assert raw(denied, b"MKD " + name)[:3] in (b"550", b"553"), name
    for name in (b"%{65E5}/x", utf8 + b"/x"):
        assert raw(denied, b"MKD " + name).startswith(b"550 "), name
    assert on_disk(daemon, "denied", "日") == []


def test_utf8_on(daemon: Daemon, client: Callable[[str], FtpClient]) -> None:
    """OPTS UTF8 ON switches the session to UTF-8, before or after the login; OFF switches back; a new login does, too."""
    (daemon.home("euro") / "€").touch()
    session = client("euro")
    assert b"\xa4" in session.download("NLST")
    assert "UTF8" not in session.command("FEAT")
    session.expect(200, "OPTS UTF8 ON")
    assert "€".encode() in session.download("NLST")
    assert "UTF8" in session.command("FEAT")
    session.expect(200, "OPTS UTF8 OFF")
    assert b"\xa4" in session.download("NLST")
    session.expect(200, "OPTS UTF8 ON")
    session.expect(220, "REIN")
    session.login("euro")
    assert b"\xa4" in session.download("NLST")
    with FtpClient(daemon) as other:
        assert "UTF8" in other.command("FEAT")
        other.expect(200, "OPTS UTF8 ON")
        other.login("euro")
        assert "€".encode() in other.download("NLST")
    with FtpClient(daemon) as other:
        other.login("alice")
        other.expect(504, "OPTS UTF8 OFF")


def test_pipelined_commands(daemon: Daemon) -> None:
    """Commands that were sent before the login was answered are read in the encoding of the user."""
    with FtpClient(daemon) as client:
        client.send(b"USER old", b"PASS secret", b"MKD gr\xfc\xdfe", b"PWD", b"USER alice", b"PASS secret", b"PWD")
        replies = [client.raw_reply()[:3] for _ in range(7)]
    assert replies == [b"331", b"230", b"257", b"257", b"331", b"230", b"257"]
    assert "grüße" in on_disk(daemon, "old")
    (daemon.home("old") / "grüße").rmdir()


def test_during_a_transfer(daemon: Daemon, client: Callable[[str], FtpClient]) -> None:
    """Replies with names, those of transfers included, are in the encoding of the user."""
    session = client("latin")
    session.send(b"EPSV")
    port = int(re.findall(rb"\|(\d+)\|", session.raw_reply())[0])
    data = session.connect_data(port)
    assert raw(session, b"STOR \xfc.txt") == b"150 Opening data connection for \xfc.txt.\r\n"
    data.close()
    assert session.raw_reply() == b"226 Transfer complete: 0 bytes in \xfc.txt.\r\n"
    reply = raw(session, b"HASH \xfc.txt")
    assert reply.startswith(b"213 ") and reply.endswith(b" /\xfc.txt\r\n")
    assert raw(session, b"DELE \xfc.txt").startswith(b"250 ")


# --- real clients --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "name"), [("old", "grüße „x“ €.txt"), ("japan", "日本語ソ表.txt"), ("windows", "①髙.txt")]
)
def test_ftplib(daemon: Daemon, tmp_path: Path, user: str, name: str) -> None:
    """ftplib with `encoding=` uploads, lists, renames, downloads and deletes."""
    with ftplib.FTP(encoding=USERS[user], timeout=PATIENCE) as ftp:
        ftp.connect(daemon.host, daemon.port)
        ftp.login(user, "secret")
        with (tmp_path / "f").open("wb+") as file:
            file.write(b"x" * 1000)
            file.seek(0)
            ftp.storbinary(f"STOR {name}", file)
        assert (daemon.home(user) / name).read_bytes() == b"x" * 1000
        assert name in ftp.nlst() and name in [each for each, _ in ftp.mlsd()]
        ftp.rename(name, f"2{name}")
        assert ftp.mkd(f"d{name}") == f"/d{name}"
        assert ftp.cwd(f"d{name}") and ftp.pwd() == f"/d{name}"
        ftp.cwd("/")
        pieces: list[bytes] = []
        ftp.retrbinary(f"RETR 2{name}", pieces.append)
        assert b"".join(pieces) == b"x" * 1000 and ftp.size(f"2{name}") == 1000
        ftp.delete(f"2{name}")
        ftp.rmd(f"d{name}")


@pytest.mark.skipif(shutil.which("lftp") is None, reason="lftp is not installed")
@pytest.mark.parametrize(("user", "name"), [("old", "grüße €ÿÿ.txt"), ("japan", "日本語ソ表.txt")])
def test_lftp(daemon: Daemon, tmp_path: Path, user: str, name: str) -> None:
    """lftp with ftp:charset mirrors a tree there and back."""
    here, back = tmp_path / "here", tmp_path / "back"
    (here / f"d {name}").mkdir(parents=True)
    (here / f"d {name}" / name).write_text("content")
    script = "; ".join(
        [
            f"set ftp:ssl-allow no; set ftp:use-utf8 no; set ftp:charset {USERS[user]}; set file:charset utf-8",
            "set net:timeout 20; set net:max-retries 1; set cmd:fail-exit yes",
            f"open -u {user},secret ftp://{daemon.host}:{daemon.port}",
            f"mirror -R {here} top; mirror top {back}; cls -1 top; rm -r top; bye",
        ]
    )
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(tmp_path)}
    done = subprocess.run(["lftp", "-c", script], capture_output=True, env=environment, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert f"d {name}" in done.stdout.decode()
    assert (back / f"d {name}" / name).read_text() == "content"
    assert "top" not in on_disk(daemon, user)


# --- the configuration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "remedy"), [("cp12522", "Did you mean cp1252?"), ("utf-16", "Did you mean utf-8?"), (1252, "Put it in")]
)
def test_faults(
    make_daemon: Callable[..., Daemon], capsys: pytest.CaptureFixture[str], value: Any, remedy: str
) -> None:
    """An unknown encoding, or one that would change what ASCII means, is a fault."""
    daemon = make_daemon(start=False, users={"alice": {"names": {"encoding": value}}})
    assert main(["check", "-c", str(daemon.config)]) == 1
    out = "".join(capsys.readouterr())
    assert "users.alice.names.encoding: " in out and remedy in out
