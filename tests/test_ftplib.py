"""Python's own client, ftplib.FTP_TLS."""

from __future__ import annotations

import ftplib
import hashlib
import io
import os
import random
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon, empty
from tests.ftpclient import FtpClient, tls_context

#: 10 MiB that compress badly.
LARGE = random.Random(3).randbytes(10 * 1024 * 1024)


class Resuming(ftplib.FTP_TLS):
    """FTP_TLS that resumes its TLS session on data connections, which it does not do by itself up to Python 3.14."""

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        """Like the base class, with the control connection's session."""
        connection, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        if self._prot_p:  # type: ignore[attr-defined]
            assert isinstance(self.sock, ssl.SSLSocket)
            connection = self.context.wrap_socket(connection, server_hostname=self.host, session=self.sock.session)
        return connection, size


def log_in(
    daemon: Daemon,
    user: str = "alice",
    kind: type[ftplib.FTP_TLS] = Resuming,
    encoding: str = "utf-8",
    context: ssl.SSLContext | None = None,
) -> ftplib.FTP_TLS:
    """Return a session with encrypted data connections."""
    ftp = kind(context=context or tls_context(), timeout=PATIENCE, encoding=encoding)
    ftp.connect(daemon.host, daemon.port)
    ftp.login(user, "secret")
    ftp.prot_p()
    return ftp


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon that requires resumption from alice, but not from bob."""
    users = {"alice": {}, "bob": {"tls": {"data_session": "allow"}}}
    daemon = Daemon(tmp_path_factory.mktemp("ftplib"), certificate, users=users).start()
    yield daemon
    daemon.stop()


@pytest.fixture
def ftp(daemon: Daemon) -> Iterator[ftplib.FTP_TLS]:
    """alice, logged in, with nothing in her home."""
    empty(daemon.home())
    with log_in(daemon) as ftp:
        yield ftp


def fetch(ftp: ftplib.FTP, name: str, rest: int | None = None) -> bytes:
    """Return a file, in TYPE I."""
    pieces: list[bytes] = []
    assert ftp.retrbinary(f"RETR {name}", pieces.append, rest=rest).startswith("226 ")
    return b"".join(pieces)


def store(ftp: ftplib.FTP, name: str, content: bytes, rest: int | None = None) -> None:
    """Store a file, in TYPE I."""
    assert ftp.storbinary(f"STOR {name}", io.BytesIO(content), rest=rest).startswith("226 ")


def same(left: bytes, right: bytes) -> bool:
    """Return whether two files have the same SHA-256."""
    return hashlib.sha256(left).digest() == hashlib.sha256(right).digest()


# --- TLS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"x", LARGE], ids=["empty", "1 byte", "10 MiB"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(("user", "kind"), [("alice", Resuming), ("bob", ftplib.FTP_TLS)])
@pytest.mark.parametrize("passive", [True, False], ids=["passive", "active"])
def test_round_trip(
    daemon: Daemon,
    content: bytes,
    version: ssl.TLSVersion,
    user: str,
    kind: type[ftplib.FTP_TLS],
    passive: bool,
) -> None:
    """The same bytes up and down, with resumption, and without it where `data_session: allow` permits that."""
    with log_in(daemon, user, kind, context=tls_context(version)) as ftp:
        ftp.set_pasv(passive)
        store(ftp, "file.bin", content)
        assert same((daemon.home(user) / "file.bin").read_bytes(), content)
        assert same(fetch(ftp, "file.bin"), content)
        assert ftp.size("file.bin") == len(content)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("command", ["NLST", "RETR file.bin", "STOR new.bin"])
def test_session_that_is_not_resumed(daemon: Daemon, version: ssl.TLSVersion, command: str) -> None:
    """With `data_session: require`, a data connection with a session of its own gets 522, which names the setting.

    Nothing is transferred.
    """
    empty(daemon.home())
    (daemon.home() / "file.bin").write_bytes(b"secret of alice")
    with log_in(daemon, kind=ftplib.FTP_TLS, context=tls_context(version)) as ftp:
        moved = b""
        try:
            with ftp.transfercmd(command) as data:
                moved = data.recv(100)
        except OSError:
            pass  # the end came in the midst of something
        assert moved == b""
        with pytest.raises(ftplib.error_perm, match=r"^522 .*data_session"):
            ftp.voidresp()
        assert ftp.pwd() == "/"
    assert os.listdir(daemon.home()) == ["file.bin"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_refusal_reaches_the_user(daemon: Daemon, version: ssl.TLSVersion) -> None:
    """The user of a plain FTP_TLS that lists gets the 522, after an error of TLS or without one.

    (One more record would be a session ticket.)
    """
    ftp = log_in(daemon, kind=ftplib.FTP_TLS, context=tls_context(version))
    try:
        with pytest.raises(ftplib.error_perm, match=r"^522 .*data_session"):
            try:
                ftp.retrlines("LIST", lambda line: None)
            except OSError:  # which of the two the client sees first is chance
                ftp.voidresp()
    finally:
        ftp.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("command", ["RETR file.bin", "STOR file.bin"])
def test_ticket_of_a_refused_connection(daemon: Daemon, version: ssl.TLSVersion, command: str) -> None:
    """A client that was refused on a data connection has got no ticket there for the next one."""
    empty(daemon.home())
    (daemon.home() / "file.bin").write_bytes(b"secret of alice")
    thief = tls_context(version)
    session: ssl.SSLSession | None = None
    with FtpClient(daemon) as victim:
        victim.start_tls(tls_context(version))
        victim.login()
        for _ in range(2):
            connection = victim.connect_data()
            victim.expect(150, command)
            got = b""
            try:
                with thief.wrap_socket(
                    connection, server_hostname="localhost", session=session, do_handshake_on_connect=False
                ) as stolen:
                    stolen.do_handshake()
                    session = stolen.session or session
                    if command.startswith("RETR"):
                        got = stolen.recv(100)
                    else:
                        stolen.sendall(b"forged")
                        stolen.unwrap()
                    session = stolen.session or session
            except OSError:
                pass  # refused, in one way or another
            assert got == b""
            assert victim.reply().startswith("522 ")
    assert (daemon.home() / "file.bin").read_bytes() == b"secret of alice"


def test_clear_command_channel(plain: Daemon) -> None:
    """ccc() ends TLS where plain text is permitted, and the session continues."""
    with log_in(plain) as ftp:
        ftp.ccc()
        assert isinstance(ftp.sock, ssl.SSLSocket)
        assert ftp.sock.cipher() is None
        assert ftp.pwd() == "/"
        ftp.voidcmd("NOOP")


def test_ccc_refused(ftp: ftplib.FTP_TLS) -> None:
    """Where TLS is required, CCC gets 534."""
    with pytest.raises(ftplib.error_perm, match=r"^534 "):
        ftp.ccc()
    assert ftp.pwd() == "/"


def test_clear_data(plain: Daemon) -> None:
    """PROT C gives data connections in plain text, where that is permitted."""
    with log_in(plain) as ftp:
        ftp.prot_c()
        store(ftp, "clear", b"text")
        assert fetch(ftp, "clear") == b"text"


def test_clear_data_refused(ftp: ftplib.FTP_TLS) -> None:
    """Where TLS is required for data, PROT C gets 534, and transfers stay encrypted."""
    with pytest.raises(ftplib.error_perm, match=r"^534 "):
        ftp.prot_c()
    store(ftp, "file", b"text")
    assert fetch(ftp, "file") == b"text"


def test_plain_ftp_is_refused(daemon: Daemon) -> None:
    """ftplib.FTP is refused at USER, and the reply says what to send."""
    with ftplib.FTP(timeout=PATIENCE) as ftp:
        ftp.connect(daemon.host, daemon.port)
        with pytest.raises(ftplib.error_perm, match=r"^530 .*AUTH TLS"):
            ftp.login("alice", "secret")


def test_plain_ftp(plain: Daemon) -> None:
    """ftplib.FTP is served where plain text is permitted."""
    assert PLAIN["tls"]["require"]["login"] is False
    with ftplib.FTP(timeout=PATIENCE) as ftp:
        ftp.connect(plain.host, plain.port)
        ftp.login("alice", "secret")
        store(ftp, "plain", LARGE)
        assert same(fetch(ftp, "plain"), LARGE)


# --- restarting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", [0, 1, 5_000_001, len(LARGE) - 1, len(LARGE)])
def test_rest_of_a_download(daemon: Daemon, ftp: ftplib.FTP_TLS, rest: int) -> None:
    """REST and RETR send what follows the offset, which may be one byte or nothing."""
    (daemon.home() / "file.bin").write_bytes(LARGE)
    assert same(fetch(ftp, "file.bin", rest), LARGE[rest:])
    assert same(fetch(ftp, "file.bin"), LARGE)


def test_rest_behind_the_end(daemon: Daemon, ftp: ftplib.FTP_TLS) -> None:
    """An offset beyond the end of the file is refused, and forgotten."""
    (daemon.home() / "file.bin").write_bytes(b"short")
    with pytest.raises(ftplib.error_perm, match=r"^554 "):
        fetch(ftp, "file.bin", 6)
    assert fetch(ftp, "file.bin") == b"short"


def test_rest_of_an_upload(daemon: Daemon, ftp: ftplib.FTP_TLS) -> None:
    """A cut upload can be resumed: SIZE returns the offset, REST and STOR send the rest."""
    ftp.voidcmd("TYPE I")
    connection = ftp.transfercmd("STOR file.bin")
    connection.sendall(LARGE[:3_000_000])
    connection.close()  # without close_notify
    with pytest.raises(ftplib.error_temp, match=r"^426 "):
        ftp.voidresp()
    assert ftp.nlst() == ["file.bin"]
    ftp.voidcmd("TYPE I")  # NLST has changed it
    kept = ftp.size("file.bin")
    assert kept is not None
    assert 0 < kept <= 3_000_000
    store(ftp, "file.bin", LARGE[kept:], kept)
    assert same((daemon.home() / "file.bin").read_bytes(), LARGE)


def test_rest_within_a_file(daemon: Daemon, ftp: ftplib.FTP_TLS) -> None:
    """REST and STOR within an existing file keep its beginning and replace the rest."""
    (daemon.home() / "file.bin").write_bytes(b"0123456789")
    store(ftp, "file.bin", b"abc", 4)
    assert (daemon.home() / "file.bin").read_bytes() == b"0123abc"


def test_append(daemon: Daemon, ftp: ftplib.FTP_TLS) -> None:
    """APPE makes a file and appends to it."""
    for piece in (b"one", b"two"):
        ftp.storbinary("APPE file.txt", io.BytesIO(piece))
    assert (daemon.home() / "file.txt").read_bytes() == b"onetwo"


def test_unique(daemon: Daemon, ftp: ftplib.FTP_TLS) -> None:
    """STOU never changes an existing file."""
    (daemon.home() / "file").write_bytes(b"old")
    for _ in range(2):
        ftp.storbinary("STOU file", io.BytesIO(b"new"))
    contents = sorted(each.read_bytes() for each in daemon.home().iterdir())
    assert contents == [b"new", b"new", b"old"]


def test_abort(daemon: Daemon, ftp: ftplib.FTP_TLS) -> None:
    """abort() during a download: 426 for the download, 226 for ABOR, and the session continues."""
    (daemon.home() / "file.bin").write_bytes(LARGE * 4)
    ftp.voidcmd("TYPE I")
    connection = ftp.transfercmd("RETR file.bin")
    assert connection.recv(100)
    assert ftp.abort().startswith("426 ")
    connection.close()
    assert ftp.getresp().startswith("226 ")
    store(ftp, "other", b"goes on")
    assert fetch(ftp, "other") == b"goes on"


def test_abort_of_an_upload(daemon: Daemon, ftp: ftplib.FTP_TLS) -> None:
    """abort() during an upload: the old file stays."""
    (daemon.home() / "file.bin").write_bytes(b"old")
    connection = ftp.transfercmd("STOR file.bin")
    connection.sendall(b"new")
    assert ftp.abort().startswith("426 ")
    connection.close()
    assert ftp.getresp().startswith("226 ")
    assert fetch(ftp, "file.bin") == b"old"


def test_abort_of_nothing(ftp: ftplib.FTP_TLS) -> None:
    """abort() without a transfer gets 226."""
    assert ftp.abort().startswith("226 ")
    assert ftp.pwd() == "/"


# --- text ------------------------------------------------------------------------------------------


def _upload_text(ftp: ftplib.FTP, name: str, *pieces: bytes) -> None:
    ftp.voidcmd("TYPE A")
    connection = ftp.transfercmd(f"STOR {name}")
    for piece in pieces:
        connection.sendall(piece)
    if isinstance(connection, ssl.SSLSocket):
        connection.unwrap()
    connection.close()
    assert ftp.voidresp().startswith("226 ")


def _download_text(ftp: ftplib.FTP, name: str) -> bytes:
    ftp.voidcmd("TYPE A")
    pieces = []
    with ftp.transfercmd(f"RETR {name}") as connection:
        while piece := connection.recv(65536):
            pieces.append(piece)
        if isinstance(connection, ssl.SSLSocket):
            connection.unwrap()
    assert ftp.voidresp().startswith("226 ")
    return b"".join(pieces)


def test_lines(daemon: Daemon, ftp: ftplib.FTP_TLS) -> None:
    """storlines and retrlines: CRLF on the network, LF on the disk, the same lines."""
    lines = ["first", "", "grüße", " blanks ", "x" * 5000, "last"]
    ftp.storlines("STOR text", io.BytesIO("\n".join(lines).encode()))
    assert (daemon.home() / "text").read_bytes() == ("\n".join(lines) + "\n").encode()
    got: list[str] = []
    ftp.retrlines("RETR text", got.append)
    assert got == lines


@pytest.mark.parametrize(
    ("pieces", "content"),
    [
        ([b""], b""),
        ([b"\r\n"], b"\n"),
        ([b"\r", b"\n"], b"\n"),
        ([b"a\r", b"\nb"], b"a\nb"),
        ([b"a\r", b"b"], b"a\rb"),
        ([b"a\r"], b"a\r"),
        ([b"a\r\r\n"], b"a\r\n"),
        ([b"a\r", b"\r", b"\n"], b"a\r\n"),
        ([b"bare\nline\n"], b"bare\nline\n"),
        ([b"\n\r\n\r"], b"\n\n\r"),
        ([b"x\r\n" * 300_000], b"x\n" * 300_000),
    ],
)
def test_text_up(daemon: Daemon, ftp: ftplib.FTP_TLS, pieces: list[bytes], content: bytes) -> None:
    """TYPE A up: each CRLF becomes LF, wherever the pieces end, and nothing else changes."""
    _upload_text(ftp, "text", *pieces)
    assert (daemon.home() / "text").read_bytes() == content


@pytest.mark.parametrize(
    ("content", "sent"),
    [
        (b"", b""),
        (b"\n", b"\r\n"),
        (b"no end", b"no end"),
        (b"a\nb\n", b"a\r\nb\r\n"),
        (b"a\r\nb\n", b"a\r\nb\r\n"),
        (b"a\rb\r", b"a\rb\r"),
        (b"\n\n\r\n", b"\r\n\r\n\r\n"),
        *(
            # The edges of the pieces that the server reads.
            (b"x" * before + end + b"y" * 10, b"x" * before + b"\r\n" + b"y" * 10)
            for before in range(256 * 1024 - 2, 256 * 1024 + 1)
            for end in (b"\n", b"\r\n")
        ),
    ],
)
def test_text_down(daemon: Daemon, ftp: ftplib.FTP_TLS, content: bytes, sent: bytes) -> None:
    """TYPE A down: each LF becomes CRLF, and a CRLF stays one, also across pieces."""
    (daemon.home() / "text").write_bytes(content)
    assert _download_text(ftp, "text") == sent


def test_binary_keeps_line_ends(daemon: Daemon, ftp: ftplib.FTP_TLS) -> None:
    """TYPE I changes nothing."""
    content = bytes(range(256)) + b"\r\n\n\r\r\n"
    store(ftp, "file", content)
    assert (daemon.home() / "file").read_bytes() == content
    assert fetch(ftp, "file") == content


def test_size_of_a_text(daemon: Daemon, ftp: ftplib.FTP_TLS) -> None:
    """SIZE in TYPE A is refused: the size on the disk is not that of the transfer."""
    (daemon.home() / "text").write_bytes(b"a\nb\n")
    ftp.voidcmd("TYPE A")
    with pytest.raises(ftplib.error_perm, match=r"^550 "):
        ftp.size("text")
    ftp.voidcmd("TYPE I")
    assert ftp.size("text") == 4


# --- names -----------------------------------------------------------------------------------------

NAMES = [
    "with blank",
    " leading",
    "trailing ",
    "  both  ",
    " ",
    "-rf",
    "-l name",
    "--",
    '"quoted"',
    '"',
    "it's",
    "grüße",
    "日本語.txt",
    "e\u0301",
    "\U0001f4c1",
    "*",
    "[a]",
    "a?b",
    "~",
    "$HOME",
    "%41",
    "back\\slash",
    "tab\there",
    "a;b=c",
    "type=file; x",
    "...",
    ".hidden",
    "x" * 255,
    "ü" * 127,
    "20200101000000 x",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names(daemon: Daemon, ftp: ftplib.FTP_TLS, name: str) -> None:
    """Every name works in every command, for files and directories."""
    raw = name.encode()
    store(ftp, name, raw)
    assert os.listdir(bytes(daemon.home())) == [raw]
    assert fetch(ftp, name) == raw
    assert ftp.size(name) == len(raw)
    assert ftp.nlst() == [name]
    assert [entry for entry, _ in ftp.mlsd()] == [name]
    listed: list[str] = []
    ftp.dir(listed.append)
    assert [line[line.index(":") + 4 :] for line in listed] == [name]
    ftp.rename(name, "other")
    ftp.rename("other", name)
    ftp.delete(name)
    assert ftp.mkd(name) == f"/{name}"
    ftp.cwd(name)
    assert ftp.pwd() == f"/{name}"
    store(ftp, name, b"inside")
    assert fetch(ftp, f"/{name}/{name}") == b"inside"
    assert [entry for entry, _ in ftp.mlsd(f"/{name}")] == [name]
    ftp.delete(name)
    ftp.cwd("..")
    ftp.rmd(name)
    assert ftp.nlst() == []


@pytest.mark.parametrize("raw", [b"\xff", b"a\xffb", b"\xff\xff", b"\xe4\xf6\xfc", b"\x80", b"x\xff"])
def test_names_that_are_not_utf_8(daemon: Daemon, raw: bytes) -> None:
    """Bytes that are not UTF-8 are stored and returned unchanged."""
    empty(daemon.home())
    name = raw.decode("latin-1")
    with log_in(daemon, encoding="latin-1") as ftp:
        store(ftp, name.replace("\xff", "\xff\xff"), b"content")  # Telnet doubles 255 (RFC 854)
        assert os.listdir(bytes(daemon.home())) == [raw]
        assert fetch(ftp, name.replace("\xff", "\xff\xff")) == b"content"
        assert ftp.nlst() == [name]
        assert [entry for entry, _ in ftp.mlsd()] == [name]
        ftp.delete(name.replace("\xff", "\xff\xff"))
        made = ftp.mkd(name.replace("\xff", "\xff\xff"))
        assert os.listdir(bytes(daemon.home())) == [raw]
        ftp.cwd(made)
        assert ftp.pwd() == made
        ftp.rmd(made)
        assert os.listdir(bytes(daemon.home())) == []


def test_single_255(daemon: Daemon) -> None:
    """A single byte 255, which ftplib does not double, means itself where nothing else is possible."""
    empty(daemon.home())
    with log_in(daemon, encoding="latin-1") as ftp:
        store(ftp, "a\xffb", b"content")
        assert os.listdir(bytes(daemon.home())) == [b"a\xffb"]
        assert fetch(ftp, "a\xffb") == b"content"


@pytest.mark.parametrize("verb", ["STOR", "RETR", "DELE", "MKD", "RMD", "RNFR", "SIZE", "CWD"])
@pytest.mark.parametrize("blank", ["", " "], ids=["none", "blank"])
def test_empty_name(daemon: Daemon, ftp: ftplib.FTP_TLS, verb: str, blank: str) -> None:
    """A command without the name that it needs gets 501, and does nothing."""
    ftp.makepasv()
    with pytest.raises(ftplib.error_perm, match=r"^501 "):
        ftp.sendcmd(verb + blank)
    assert os.listdir(daemon.home()) == []
    assert ftp.pwd() == "/"


def test_name_too_long(ftp: ftplib.FTP_TLS) -> None:
    """A name that is too long for the disk gets 553."""
    with pytest.raises(ftplib.error_perm, match=r"^553 "):
        store(ftp, "x" * 256, b"")
    with pytest.raises(ftplib.error_perm, match=r"^553 "):
        ftp.mkd("x" * 256)


# --- directories -----------------------------------------------------------------------------------


def test_directories(daemon: Daemon, ftp: ftplib.FTP_TLS) -> None:
    """mkd, cwd, pwd, rmd, rename: doubled quotes in 257 mean one quote, and the root stays."""
    name = 'a "b" c'
    assert ftp.mkd(name) == f"/{name}"
    assert '"/a ""b"" c"' in ftp.sendcmd(f"CWD {name}") + ftp.sendcmd("PWD")
    assert ftp.pwd() == f"/{name}"
    assert ftp.mkd("sub") == f"/{name}/sub"
    ftp.cwd("sub")
    ftp.cwd("..")
    assert ftp.pwd() == f"/{name}"
    ftp.cwd("/")
    with pytest.raises(ftplib.error_perm, match=r"^550 "):
        ftp.rmd(name)
    ftp.rename(f"{name}/sub", "moved")
    ftp.rmd(name)
    ftp.rmd("moved")
    for _ in range(2):
        ftp.cwd("..")
        assert ftp.pwd() == "/"
    for act in (ftp.rmd, ftp.delete, ftp.mkd, lambda name: ftp.rename(name, "elsewhere")):
        with pytest.raises(ftplib.error_perm, match=r"^5"):
            act("/")
    assert daemon.home().is_dir()


def test_rename_of_nothing(ftp: ftplib.FTP_TLS) -> None:
    """What does not exist cannot be renamed, deleted, entered, sized or listed."""
    for act in (ftp.delete, ftp.rmd, ftp.cwd, ftp.size, ftp.nlst, lambda name: list(ftp.mlsd(name))):
        with pytest.raises(ftplib.error_perm, match=r"^550 "):
            act("nothing")
    with pytest.raises(ftplib.error_perm, match=r"^550 "):
        ftp.rename("nothing", "something")


def test_rename_over_a_file(daemon: Daemon, ftp: ftplib.FTP_TLS) -> None:
    """A rename replaces an existing file."""
    (daemon.home() / "old").write_bytes(b"old")
    (daemon.home() / "new").write_bytes(b"new")
    ftp.rename("new", "old")
    assert os.listdir(daemon.home()) == ["old"]
    assert (daemon.home() / "old").read_bytes() == b"new"


def test_mlsd(daemon: Daemon, ftp: ftplib.FTP_TLS) -> None:
    """mlsd returns the facts that were requested, with true values."""
    (daemon.home() / "file").write_bytes(b"12345")
    os.utime(daemon.home() / "file", (1_000_000_000, 1_000_000_000))
    (daemon.home() / "file").chmod(0o640)
    (daemon.home() / "sub").mkdir()
    found = dict(ftp.mlsd(facts=["type", "size", "modify", "unix.mode"]))
    assert found["file"] == {
        "type": "file",
        "size": "5",
        "modify": "20010909014640",
        "unix.mode": "0640",
    }
    assert found["sub"]["type"] == "dir"
    assert set(dict(ftp.mlsd("sub"))) == set()


def test_listing(daemon: Daemon, ftp: ftplib.FTP_TLS) -> None:
    """dir and nlst of the current directory, a directory, a file, a pattern, and an empty directory."""
    for name in ("a.txt", "b.txt", "c.bin"):
        (daemon.home() / name).write_bytes(b"")
    (daemon.home() / "sub").mkdir()
    (daemon.home() / "sub" / "d.txt").write_bytes(b"")
    assert ftp.nlst() == ["a.txt", "b.txt", "c.bin", "sub"]
    assert ftp.nlst("sub") == ["sub/d.txt"]
    assert ftp.nlst("*.txt") == ["a.txt", "b.txt"]
    assert ftp.nlst("a.txt") == ["a.txt"]
    lines: list[str] = []
    ftp.dir("-a", lines.append)
    assert [line.split()[-1] for line in lines] == [".", "..", "a.txt", "b.txt", "c.bin", "sub"]
    (daemon.home() / "empty").mkdir()
    assert ftp.nlst("empty") == []


@pytest.mark.parametrize("count", [1999, 2000, 2001])
def test_directory_of_2000_files(daemon: Daemon, ftp: ftplib.FTP_TLS, count: int) -> None:
    """A directory of 2,000 files is listed completely by NLST, LIST and MLSD, each name once."""
    names = sorted(f"file {number:05d}.bin" for number in range(count))
    (daemon.home() / "many").mkdir()
    for name in names:
        (daemon.home() / "many" / name).touch()
    ftp.cwd("many")
    assert sorted(ftp.nlst()) == names
    assert sorted(name for name, _ in ftp.mlsd()) == names
    lines: list[str] = []
    ftp.dir(lines.append)
    assert sorted(line[-14:] for line in lines) == names


def test_many_small_files(daemon: Daemon, ftp: ftplib.FTP_TLS) -> None:
    """A hundred files are uploaded, listed, downloaded and deleted in one session."""
    contents = {f"{number}.bin": random.Random(number).randbytes(number) for number in range(100)}
    for name, content in contents.items():
        store(ftp, name, content)
    assert sorted(ftp.nlst()) == sorted(contents)
    for name, content in contents.items():
        assert same(fetch(ftp, name), content)
        ftp.delete(name)
    assert os.listdir(daemon.home()) == []
