"""curl, with the options that people use."""

from __future__ import annotations

import hashlib
import os
import random
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon, empty, merge
from tests.ftpclient import FtpClient, secured, tls_context

T = TypeVar("T")

#: Some megabytes that compress badly, not a multiple of anything.
CONTENT = random.Random(2).randbytes(3 * 1024 * 1024 + 17)


class Curl(NamedTuple):
    """The result of a run of curl."""

    code: int
    output: bytes
    said: str

    @property
    def sent(self) -> list[str]:
        """The commands that it sent."""
        return [line[2:] for line in self.said.splitlines() if line.startswith("> ")]

    @property
    def got(self) -> list[str]:
        """The replies that it got."""
        return [line[2:] for line in self.said.splitlines() if re.match(r"< \d{3} ", line)]


def command(*arguments: str | Path, user: str = "alice") -> list[str]:
    """Return a command line of curl that accepts every certificate and requires TLS."""
    return ["curl", "-v", "-k", "-sS", "--ssl-reqd", "-u", f"{user}:secret", *map(str, arguments)]


def curl(*arguments: str | Path, user: str = "alice", fails: bool = False) -> Curl:
    """Run curl to its end, which must be a success unless it `fails`."""
    done = subprocess.run(command("--max-time", "15", *arguments, user=user), capture_output=True, timeout=2 * PATIENCE)
    result = Curl(done.returncode, done.stdout, done.stderr.decode(errors="replace"))
    assert (result.code != 0) is fails, result.said
    return result


def url(daemon: Daemon, path: str = "", scheme: str = "ftp") -> str:
    """Return the URL of a file."""
    port = daemon.implicit_port if scheme == "ftps" else daemon.port
    return f"{scheme}://{daemon.host}:{port}/{path}"


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    """The shared daemon, with nothing in alice's home."""
    empty(shared.home())
    yield shared
    empty(shared.home())


def same(left: bytes, right: bytes) -> bool:
    """Return whether two files have the same SHA-256."""
    return hashlib.sha256(left).digest() == hashlib.sha256(right).digest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a file to upload."""
    path = tmp_path / "source.bin"
    path.write_bytes(CONTENT)
    return path


def round_trip(daemon: Daemon, source: Path, *options: str, scheme: str = "ftp") -> tuple[Curl, Curl]:
    """Upload a file, download it, and compare. Return what curl printed both times."""
    up = curl(*options, "-T", source, url(daemon, "file.bin", scheme))
    assert same((daemon.home() / "file.bin").read_bytes(), CONTENT)
    down = curl(*options, url(daemon, "file.bin", scheme))
    assert same(down.output, CONTENT)
    for run in (up, down):
        assert "SSL re-using session ID" in run.said
        assert run.got[-1].startswith("226 ")
    return up, down


# --- TLS -------------------------------------------------------------------------------------------


def test_explicit(daemon: Daemon, source: Path) -> None:
    """Explicit TLS: AUTH, then the same bytes up and down."""
    up, _ = round_trip(daemon, source)
    assert up.sent[0] == "AUTH SSL"


def test_implicit(daemon: Daemon, source: Path) -> None:
    """Implicit TLS (ftps://): TLS from the first byte, no AUTH, the same bytes up and down."""
    up, down = round_trip(daemon, source, scheme="ftps")
    assert up.sent[0] == down.sent[0] == "USER alice"


@pytest.mark.parametrize(
    ("options", "version"),
    [(["--tlsv1.2", "--tls-max", "1.2"], "TLSv1.2"), (["--tlsv1.3", "--tls-max", "1.3"], "TLSv1.3")],
    ids=["1.2", "1.3"],
)
@pytest.mark.parametrize("scheme", ["ftp", "ftps"])
def test_one_tls_version(daemon: Daemon, source: Path, options: list[str], version: str, scheme: str) -> None:
    """Clients with only TLS 1.2 or only TLS 1.3 are served, and their data connections resume."""
    for run in round_trip(daemon, source, *options, scheme=scheme):
        used = set(re.findall(r"SSL connection using (\S+)", run.said))
        assert used == {version}, run.said


def test_certificate_is_verified(daemon: Daemon) -> None:
    """A client that verifies the certificate accepts it."""
    done = subprocess.run(
        ["curl", "-sS", "--ssl-reqd", "-u", "alice:secret", "--cacert", daemon.certificate, url(daemon)],
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr


def test_plain_login_is_refused(daemon: Daemon) -> None:
    """Without TLS nobody can log in, and the reply says what to send."""
    done = subprocess.run(
        ["curl", "-v", "-sS", "-u", "alice:secret", url(daemon)], capture_output=True, timeout=PATIENCE
    )
    assert done.returncode == 67, done.stderr
    assert b"AUTH TLS" in done.stderr
    assert b"> PASS" not in done.stderr


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_clear_command_channel(plain: Daemon, source: Path, version: str) -> None:
    """Where plain text is permitted, CCC ends TLS on the control connection, and the session continues."""
    _transfer_after_ccc(plain, source, "--ftp-ssl-ccc-mode", "active", "--tls-max", version)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_clear_command_channel_unanswered(make_daemon: Callable[..., Daemon], source: Path, version: str) -> None:
    """In curl's passive mode of CCC, curl does not answer close_notify: its next command is plain text.

    (OpenSSL cannot resume a session that ended like this.)
    """
    daemon = make_daemon(merge(PLAIN, {"tls": {"data_session": "allow"}}))
    _transfer_after_ccc(daemon, source, "--ftp-ssl-ccc-mode", "passive", "--tls-max", version)


def _transfer_after_ccc(daemon: Daemon, source: Path, *options: str) -> None:
    up = curl("--ftp-ssl-ccc", *options, "-T", source, url(daemon, "ccc.bin"))
    assert same((daemon.home() / "ccc.bin").read_bytes(), CONTENT)
    down = curl("--ftp-ssl-ccc", *options, url(daemon, "ccc.bin"))
    assert same(down.output, CONTENT)
    for run in (up, down):
        assert run.sent.index("CCC") < run.sent.index("PWD")
        assert run.got[-1].startswith("226 ")
    (daemon.home() / "ccc.bin").unlink()


class TlsByHand:
    """The TLS of a client, whose records the test sends."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls_context().wrap_bio(self._in, self._out, server_hostname="localhost")
        self._do(self._tls.do_handshake)

    def _do(self, action: Callable[[], T]) -> T:
        while True:
            try:
                result = action()
                break
            except ssl.SSLWantReadError:
                self._socket.sendall(self._out.read())
                self._in.write(self._socket.recv(65536))
        self._socket.sendall(self._out.read())
        return result

    def command(self, line: str) -> str:
        """Send a command, and return its reply of one line."""
        self._tls.write(line.encode() + b"\r\n")
        return self._do(self._tls.read).decode()

    def await_end(self) -> None:
        """Read the server's close_notify."""
        assert self._do(self._tls.read) == b""

    def close_notify(self) -> bytes:
        """Return our close_notify, which is not sent."""
        self._tls.unwrap()
        return self._out.read()


@pytest.mark.parametrize("notify", [True, False], ids=["close_notify", "nothing"])
def test_clear_command_channel_in_one_segment(plain: Daemon, notify: bool) -> None:
    """Bytes after the client's close_notify, or instead of it, are read as plain text."""
    with FtpClient(plain) as client:
        client.expect(234, "AUTH TLS")
        tls = TlsByHand(client.socket)
        assert tls.command("USER alice").startswith("331 ")
        assert tls.command("PASS secret").startswith("230 ")
        assert tls.command("CCC").startswith("200 ")
        tls.await_end()
        client.send_raw((tls.close_notify() if notify else b"") + b"PWD\r\nNOOP\r\n")
        assert client.reply().startswith('257 "/"')
        assert client.reply().startswith("200 ")
        client.expect(200, "NOOP")


def test_clear_command_channel_refused(daemon: Daemon) -> None:
    """Where TLS is required, CCC is refused, and the session stays encrypted and usable."""
    (daemon.home() / "a.txt").write_bytes(b"text")
    run = curl("--ftp-ssl-ccc", url(daemon, "a.txt"))
    assert run.output == b"text"
    assert any(reply.startswith("534 ") for reply in run.got)


# --- data connections ------------------------------------------------------------------------------


def test_pasv(daemon: Daemon, source: Path) -> None:
    """--disable-epsv: PASV announces the address that the client has reached."""
    up, _ = round_trip(daemon, source, "--disable-epsv", "--no-ftp-skip-pasv-ip")
    assert "PASV" in up.sent
    assert "EPSV" not in up.sent
    assert any("(127,0,0,1," in reply for reply in up.got)


def _cannot_encrypt_active_mode() -> bool:
    words = subprocess.run(["curl", "--version"], capture_output=True, text=True, timeout=PATIENCE).stdout
    version = [int(number) for number in words.split()[1].split(".")[:2]]
    return [7, 87] <= version < [8, 0]


#: https://github.com/curl/curl/issues/10666
needs_tls_in_active_mode = pytest.mark.skipif(
    _cannot_encrypt_active_mode(), reason="curl 7.87 and 7.88 forget TLS in active mode (their issue 10666)"
)

active = pytest.mark.parametrize(
    ("options", "verb"), [((), "EPRT"), (("--disable-eprt",), "PORT")], ids=["EPRT", "PORT"]
)


@needs_tls_in_active_mode
@active
def test_active(daemon: Daemon, source: Path, options: tuple[str, ...], verb: str) -> None:
    """-P -: the server connects to the client, with EPRT and with PORT, over TLS."""
    up, _ = round_trip(daemon, source, "-P", "-", *options)
    assert _ports_of(up) == [verb]


@active
def test_active_in_plain_text(plain: Daemon, source: Path, options: tuple[str, ...], verb: str) -> None:
    """-P -: the same without TLS, where that is permitted."""
    line = ["curl", "-v", "-sS", "-u", "alice:secret", "-P", "-", *options]
    where = url(plain, "active.bin")
    done = subprocess.run([*line, "-T", source, where], capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr.decode()
    done = subprocess.run([*line, where], capture_output=True, timeout=PATIENCE)
    assert same(done.stdout, CONTENT)
    assert _ports_of(Curl(0, b"", done.stderr.decode())) == [verb]


def _ports_of(run: Curl) -> list[str]:
    return [line.split()[0] for line in run.sent if line[:4] in ("EPSV", "PASV", "EPRT", "PORT")]


@pytest.mark.skipif(not _cannot_encrypt_active_mode(), reason="this curl encrypts")
def test_plain_text_where_tls_is_agreed(daemon: Daemon, source: Path) -> None:
    """A client that uses no TLS on its data connection after PROT P gets 522, and nothing of its file is kept."""
    ended = len(re.findall(r"STOR file\.bin: 522", daemon.log))
    curl("-P", "-", "-T", source, url(daemon, "file.bin"), fails=True)
    daemon.wait_for_log(rf"(STOR file\.bin: 522[\s\S]*?){{{ended + 1}}}")
    assert not list(daemon.home().iterdir())


def test_ipv6(make_daemon: Callable[..., Daemon], source: Path) -> None:
    """IPv6: EPSV, the same bytes."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    daemon = make_daemon(address="::1")
    where = f"ftp://[::1]:{daemon.port}/six.bin"
    up = curl("-T", source, where)
    assert "EPSV" in up.sent
    assert same(curl(where).output, CONTENT)


def test_two_files_in_one_session(daemon: Daemon) -> None:
    """Several URLs share a control connection, and each transfer resumes its TLS session."""
    for name in ("one", "two"):
        (daemon.home() / name).write_text(name)
    run = curl(*(url(daemon, name) for name in ("one", "two")))
    assert run.output == b"onetwo"
    assert sum(line.startswith("USER") for line in run.sent) == 1


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_several_uploads_in_one_session(make_daemon: Callable[..., Daemon], source: Path, version: str) -> None:
    """Several uploads share a control connection, with `data_session: allow`.

    Under TLS 1.3 curl 7.88 uses a ticket once, and does not read that of an upload.
    """
    daemon = make_daemon(users={"alice": {} if version == "1.2" else {"tls": {"data_session": "allow"}}})
    names = ("one", "two", "three")
    run = curl("--tls-max", version, *(each for name in names for each in ("-T", source, url(daemon, name))))
    assert sum(line.startswith("USER") for line in run.sent) == 1
    for name in names:
        assert same((daemon.home() / name).read_bytes(), CONTENT)


# --- resume ----------------------------------------------------------------------------------------


def test_download_is_resumed(daemon: Daemon, tmp_path: Path) -> None:
    """-C - downloads the missing bytes only."""
    (daemon.home() / "big.bin").write_bytes(CONTENT)
    target = tmp_path / "big.bin"
    target.write_bytes(CONTENT[:1_000_001])
    run = curl("-C", "-", "-o", target, url(daemon, "big.bin"))
    assert "REST 1000001" in run.sent
    assert same(target.read_bytes(), CONTENT)


def test_complete_download_is_not_repeated(daemon: Daemon, tmp_path: Path) -> None:
    """-C - of a complete file downloads nothing."""
    (daemon.home() / "big.bin").write_bytes(CONTENT)
    target = tmp_path / "big.bin"
    target.write_bytes(CONTENT)
    run = curl("-C", "-", "-o", target, url(daemon, "big.bin"))
    assert not any(line.startswith("RETR") for line in run.sent)
    assert same(target.read_bytes(), CONTENT)


def test_range(daemon: Daemon) -> None:
    """-r downloads a part from the middle. curl closes the data connection early, which does no harm."""
    (daemon.home() / "big.bin").write_bytes(CONTENT)
    run = curl("-r", "1000-1999", url(daemon, "big.bin"), url(daemon, "big.bin"))
    assert run.output[:1000] == CONTENT[1000:2000]


def _cut_by_kill(daemon: Daemon, source: Path) -> None:
    """A curl that is killed during its upload."""
    arguments = command("--limit-rate", "4M", "-T", source, url(daemon, "up.bin"))
    running = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE
        while not any(each.stat().st_size > 100_000 for each in daemon.home().iterdir()):
            assert time.monotonic() < deadline, daemon.log
            assert running.poll() is None, "it was too fast to be killed"
            time.sleep(0.01)
    finally:
        running.kill()
        running.wait()


def _cut_by_hand(daemon: Daemon, source: Path) -> None:
    """A client whose data connection ends without close_notify."""
    with secured(daemon) as client:
        data = client.connect_data()
        client.expect(150, "STOR up.bin")
        with client.secure_data(data) as connection:
            connection.sendall(source.read_bytes()[:1_234_567])
        assert client.reply().startswith("426 ")


@pytest.mark.parametrize("cut", [_cut_by_kill, _cut_by_hand], ids=["kill", "raw"])
def test_upload_is_resumed(daemon: Daemon, source: Path, cut: Callable[[Daemon, Path], None]) -> None:
    """A cut upload shows no file; -C - resumes it, and then the whole file has its name."""
    ended = len(re.findall(r"STOR up\.bin: 426", daemon.log))
    cut(daemon, source)
    daemon.wait_for_log(rf"(STOR up\.bin: 426[\s\S]*?){{{ended + 1}}}")
    assert not (daemon.home() / "up.bin").exists()
    run = curl("-C", "-", "-T", source, url(daemon, "up.bin"))
    assert "APPE up.bin" in run.sent
    kept = int(next(reply for reply in run.got if reply.startswith("213 "))[4:])
    assert 0 < kept < len(CONTENT)
    assert f"226 Transfer complete: {len(CONTENT) - kept} bytes in up.bin." in run.got
    assert [each.name for each in daemon.home().iterdir()] == ["up.bin"]
    assert same((daemon.home() / "up.bin").read_bytes(), CONTENT)


def test_complete_upload_is_not_repeated(daemon: Daemon, source: Path) -> None:
    """-C - of a file that is complete on the server uploads nothing."""
    (daemon.home() / "up.bin").write_bytes(CONTENT)
    run = curl("-C", "-", "-T", source, url(daemon, "up.bin"))
    assert not any(line.startswith(("STOR", "APPE")) for line in run.sent)
    assert same((daemon.home() / "up.bin").read_bytes(), CONTENT)


def test_resume_while_the_first_upload_still_runs(daemon: Daemon, source: Path) -> None:
    """Resuming an upload that another session still runs never publishes a file without its beginning."""
    with secured(daemon) as first:
        data = first.connect_data()
        first.expect(150, "STOR up.bin")
        with first.secure_data(data) as connection:
            connection.sendall(CONTENT[:1_000_000])
            deadline = time.monotonic() + PATIENCE
            while not any(each.stat().st_size == 1_000_000 for each in daemon.home().iterdir()):
                assert time.monotonic() < deadline, daemon.log
                time.sleep(0.01)
            done = subprocess.run(
                command("--max-time", "15", "-C", "-", "-T", source, url(daemon, "up.bin")),
                capture_output=True,
                timeout=PATIENCE,
            )
            published = daemon.home() / "up.bin"
            if done.returncode == 0:
                assert same(published.read_bytes(), CONTENT), done.stderr.decode()
            else:
                assert not published.exists()
        assert first.reply().startswith("426 ")


def test_append(daemon: Daemon, tmp_path: Path) -> None:
    """-a appends to a file."""
    (daemon.home() / "log.txt").write_bytes(b"one\n")
    more = tmp_path / "more"
    more.write_bytes(b"two\n")
    run = curl("-a", "-T", more, url(daemon, "log.txt"))
    assert "APPE log.txt" in run.sent
    assert (daemon.home() / "log.txt").read_bytes() == b"one\ntwo\n"


# --- files and directories -------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"x"], ids=["empty", "1 byte"])
def test_small_files(daemon: Daemon, tmp_path: Path, content: bytes) -> None:
    """An empty file and a file of one byte are uploaded and downloaded."""
    small = tmp_path / "small"
    small.write_bytes(content)
    curl("-T", small, url(daemon, "small"))
    assert (daemon.home() / "small").read_bytes() == content
    assert curl(url(daemon, "small")).output == content


def test_standard_input(daemon: Daemon) -> None:
    """-T - uploads a stream of unknown size."""
    done = subprocess.run(
        command("-T", "-", url(daemon, "piped")), input=CONTENT, capture_output=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert same((daemon.home() / "piped").read_bytes(), CONTENT)


NAMES = {
    "with%20blank": b"with blank",
    "%20both%20": b" both ",
    "gr%C3%BC%C3%9Fe": "grüße".encode(),
    "-rf": b"-rf",
    "%22quoted%22": b'"quoted"',
    "a%FFb": b"a\xffb",
    "%E4%E9": b"\xe4\xe9",
    "%23%3F%25%2A": b"#?%*",
    "back%5Cslash": b"back\\slash",
    "%C3%BC" * 100: "ü".encode() * 100,
}


def test_names(daemon: Daemon, tmp_path: Path) -> None:
    """Every name is stored as it was meant, and found again."""

    def there_and_back(number: int, encoded: str, name: bytes) -> bytes:
        (tmp_path / str(number)).write_bytes(name)
        curl("-T", tmp_path / str(number), url(daemon, encoded))
        return curl(url(daemon, encoded)).output

    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(there_and_back, *each) for each in zip(range(99), NAMES, NAMES.values(), strict=False)]
    assert [job.result() for job in jobs] == list(NAMES.values())
    assert sorted(os.listdir(bytes(daemon.home()))) == sorted(NAMES.values())
    assert sorted(curl("-l", url(daemon)).output.splitlines()) == sorted(NAMES.values())


def test_create_dirs(daemon: Daemon, source: Path) -> None:
    """--ftp-create-dirs makes missing directories, and accepts existing ones."""
    (daemon.home() / "a").mkdir()
    for _ in range(2):
        run = curl("--ftp-create-dirs", "-T", source, url(daemon, "a/b%20c/d/file.bin"))
        assert same((daemon.home() / "a" / "b c" / "d" / "file.bin").read_bytes(), CONTENT)
    assert not any(line.startswith("MKD") for line in run.sent)


def test_missing_directory(daemon: Daemon, source: Path) -> None:
    """An upload to a missing directory fails and makes nothing."""
    run = curl("-T", source, url(daemon, "nowhere/file.bin"), fails=True)
    assert run.code == 9
    assert not list(daemon.home().iterdir())


def test_missing_file(daemon: Daemon) -> None:
    """A missing file gets 550, which curl reports with exit status 78."""
    run = curl(url(daemon, "nothing"), fails=True)
    assert run.code == 78, run.said
    assert any(reply.startswith("550 ") for reply in run.got)


def test_wrong_password(daemon: Daemon) -> None:
    """A wrong password gets 530, which curl reports with exit status 67."""
    run = curl("-u", "alice:wrong", url(daemon), fails=True)
    assert run.code == 67, run.said


@pytest.mark.parametrize(
    ("method", "moves"),
    [
        ("multicwd", ["CWD deep", "CWD er", "RETR file.txt"]),
        ("nocwd", ["RETR deep/er/file.txt"]),
        ("singlecwd", ["CWD deep/er", "RETR file.txt"]),
    ],
)
def test_method(daemon: Daemon, tmp_path: Path, method: str, moves: list[str]) -> None:
    """--ftp-method: each way to a file works for downloads, uploads and listings."""
    (daemon.home() / "deep" / "er").mkdir(parents=True)
    (daemon.home() / "deep" / "er" / "file.txt").write_bytes(b"found")
    run = curl("--ftp-method", method, url(daemon, "deep/er/file.txt"))
    assert run.output == b"found"
    assert [line for line in run.sent if line.startswith(("CWD", "RETR"))] == moves
    new = tmp_path / "new"
    new.write_bytes(b"new")
    curl("--ftp-method", method, "-T", new, url(daemon, "deep/er/new"))
    assert (daemon.home() / "deep" / "er" / "new").read_bytes() == b"new"
    listed = curl("--ftp-method", method, "-l", url(daemon, "deep/er/"))
    above = b"deep/er/" if method == "nocwd" else b""  # NLST with a path answers with paths (RFC 1123 4.1.2.7)
    assert listed.output.split() == [above + b"file.txt", above + b"new"]


@pytest.mark.parametrize("method", ["multicwd", "nocwd", "singlecwd"])
def test_absolute_path(daemon: Daemon, method: str) -> None:
    """An absolute path (//) begins at the user's home."""
    (daemon.home() / "deep").mkdir()
    (daemon.home() / "deep" / "file.txt").write_bytes(b"found")
    assert curl("--ftp-method", method, url(daemon, "/deep/file.txt")).output == b"found"


def test_listing(daemon: Daemon) -> None:
    """A directory is listed as by `ls -l`, with -l by names only, and an empty one as nothing."""
    assert curl(url(daemon)).output == b""
    (daemon.home() / "file one").write_bytes(b"12345")
    (daemon.home() / "sub").mkdir()
    file, directory = curl(url(daemon)).output.decode().splitlines()
    assert re.fullmatch(r"-rw-r--r-- +1 \S+ +\S+ +5 [A-Z][a-z]{2} [ \d]\d \d\d:\d\d file one", file)
    assert re.fullmatch(r"drwxr-xr-x +\d+ \S+ +\S+ +\d+ [A-Z][a-z]{2} [ \d]\d \d\d:\d\d sub", directory)
    assert curl("-l", url(daemon)).output == b"file one\nsub\n"
    assert curl("-X", "MLSD", url(daemon)).output.count(b"type=") == 2


def test_listing_with_flags(daemon: Daemon) -> None:
    """-X with the flags of ls that scripts use also lists hidden files."""
    (daemon.home() / ".hidden").write_bytes(b"")
    lines = curl("-X", "LIST -al", url(daemon)).output.decode().splitlines()
    assert [line.split()[-1] for line in lines] == [".", "..", ".hidden"]


def test_head(daemon: Daemon) -> None:
    """-I prints size and time without a transfer."""
    (daemon.home() / "file.bin").write_bytes(CONTENT)
    run = curl("-I", url(daemon, "file.bin"))
    assert f"Content-Length: {len(CONTENT)}" in run.output.decode()
    assert "Last-Modified: " in run.output.decode()


def test_remote_time(daemon: Daemon, tmp_path: Path) -> None:
    """-R gives the copy the time of the file."""
    (daemon.home() / "old.txt").write_bytes(b"old")
    os.utime(daemon.home() / "old.txt", (1_000_000_000, 1_000_000_000))
    curl("-R", "-o", tmp_path / "old.txt", url(daemon, "old.txt"))
    assert (tmp_path / "old.txt").stat().st_mtime == 1_000_000_000


def test_quotes(daemon: Daemon) -> None:
    """-Q sends further commands: before the transfer, after it, and with * even if they fail."""
    for name in ("dele me", "old name", "stays"):
        (daemon.home() / name).write_bytes(name.encode())
    run = curl(
        *("-Q", "DELE dele me", "-Q", "RNFR old name", "-Q", "RNTO new name", "-Q", "*DELE not there"),
        *("-Q", "-MKD after", "-Q", "-SITE CHMOD 600 stays"),
        url(daemon, "stays"),
    )
    assert run.output == b"stays"
    assert sorted(each.name for each in daemon.home().iterdir()) == ["after", "new name", "stays"]
    assert (daemon.home() / "stays").stat().st_mode & 0o777 == 0o600
    assert (daemon.home() / "new name").read_bytes() == b"old name"


def test_quote_that_fails(daemon: Daemon) -> None:
    """A command of -Q that is refused ends the run before the transfer."""
    (daemon.home() / "stays").write_bytes(b"")
    run = curl("-Q", "DELE not there", url(daemon, "stays"), fails=True)
    assert run.code == 21
    assert not any(line.startswith("RETR") for line in run.sent)


def test_ascii(daemon: Daemon) -> None:
    """--use-ascii: TYPE A, whose line ends curl converts to those of its system."""
    (daemon.home() / "text").write_bytes(b"one\ntwo\n")
    run = curl("--use-ascii", url(daemon, "text"))
    assert "TYPE A" in run.sent
    assert run.output == b"one\ntwo\n"
    assert "226 Transfer complete: 10 bytes." in run.got
