"""lftp, which mirrors trees, downloads in pieces and resumes."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon, merge
from tests.ftpclient import secured
from tests.hostile import wait_until

SETTINGS = """
set ftp:ssl-force true
set ftp:ssl-protect-data true
set ssl:verify-certificate no
set net:max-retries 1
set net:timeout 10
set net:reconnect-interval-base 1
set xfer:clobber true
set cmd:fail-exit true
set cmd:trace false
set bmk:save-passwords false
"""

CONTENT = random.Random(5).randbytes(3 * 1024 * 1024 + 5)

#: What a tree can hold: paths, and what is in them (None: an empty directory).
TREE: dict[bytes, bytes | None] = {
    b"plain.txt": b"text\n",
    b"empty": b"",
    b"one": b"x",
    b"with blank/in a dir/file name.txt": b"deep",
    b" leading": b"1",
    b"trailing ": b"2",
    b"-rf/-la": b"3",
    b'"quoted"/it\'s': b"4",
    "grüße/日本語/\U0001f4c1".encode(): b"5",
    "e\u0301 not composed".encode(): b"6",
    b"[a]*?{b}": b"7",
    b"back\\slash": b"8",
    b"$HOME ~ % # ! & ; | <>": b"9",
    b".hidden/.file": b"10",
    b"...": b"11",
    b"hollow": None,
    b"x" * 255: b"12",
    b"large.bin": CONTENT,
}


def lftp(daemon: Daemon, commands: str, *settings: str, fails: bool = False) -> str:
    """Run commands of lftp. Return its output."""
    script = SETTINGS + "\n".join(settings) + f"\nopen -u alice,secret {daemon.host}:{daemon.port}\n" + commands
    done = subprocess.run(
        ["lftp", "--norc", "-f", "/dev/stdin"],
        input=script.encode("utf-8", "surrogateescape"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=2 * PATIENCE,
        env={**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(daemon.directory), "TZ": "UTC"},
    )
    said = done.stdout.decode("utf-8", "surrogateescape")
    assert (done.returncode != 0) is fails, said
    return said


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    """The shared daemon, with nothing in alice's home."""
    _empty(os.fsencode(shared.home()))
    yield shared
    _empty(os.fsencode(shared.home()))


def _empty(directory: bytes) -> None:
    for each in os.scandir(directory):
        if each.is_dir(follow_symlinks=False):
            _empty(each.path)
            os.rmdir(each.path)
        else:
            os.unlink(each.path)


def plant(top: Path, tree: dict[bytes, bytes | None]) -> None:
    """Make a tree."""
    for path, content in tree.items():
        place = os.path.join(os.fsencode(top), path)
        os.makedirs(place if content is None else os.path.dirname(place), exist_ok=True)
        if content is not None:
            with open(place, "wb") as file:
                file.write(content)


def harvest(top: Path) -> dict[bytes, str | None]:
    """Return the SHA-256 of each file of a tree; None for an empty directory."""
    start = os.fsencode(top)
    found: dict[bytes, str | None] = {}
    for directory, directories, files in os.walk(start):
        where = os.path.relpath(directory, start)
        for name in files:
            with open(os.path.join(directory, name), "rb") as file:
                found[os.path.normpath(os.path.join(where, name))] = hashlib.sha256(file.read()).hexdigest()
        if not directories and not files and where != b".":
            found[where] = None
    return found


def digests(tree: dict[bytes, bytes | None]) -> dict[bytes, str | None]:
    """Return what `harvest` returns for a tree."""
    return {path: None if content is None else hashlib.sha256(content).hexdigest() for path, content in tree.items()}


# --- mirror ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [1, 4])
def test_mirror_down(daemon: Daemon, tmp_path: Path, parallel: int) -> None:
    """A tree with unusual names is downloaded with its times and modes; a second mirror transfers nothing."""
    plant(daemon.home(), TREE)
    os.utime(daemon.home() / "one", (1_000_000_000, 1_000_000_000))
    (daemon.home() / "one").chmod(0o640)
    target = tmp_path / "tree"
    line = f"mirror --verbose=3 --parallel={parallel} / {target}"
    lftp(daemon, line)
    assert harvest(target) == digests(TREE)
    assert (target / "one").stat().st_mtime == 1_000_000_000
    assert (target / "one").stat().st_mode & 0o777 == 0o640
    assert "Transferring file" not in lftp(daemon, line)


@pytest.mark.parametrize("parallel", [1, 4])
def test_mirror_up(daemon: Daemon, tmp_path: Path, parallel: int) -> None:
    """A tree with unusual names is uploaded with its times and modes; a second mirror transfers nothing."""
    source = tmp_path / "tree"
    plant(source, TREE)
    os.utime(source / "one", (1_000_000_000, 1_000_000_000))
    (source / "one").chmod(0o640)
    line = f"mirror -R --verbose=3 --parallel={parallel} {source} /"
    lftp(daemon, line)
    assert harvest(daemon.home()) == digests(TREE)
    assert (daemon.home() / "one").stat().st_mtime == 1_000_000_000
    assert (daemon.home() / "one").stat().st_mode & 0o777 == 0o640
    assert "Transferring file" not in lftp(daemon, line)


def test_mirror_that_deletes(daemon: Daemon, tmp_path: Path) -> None:
    """mirror -R --delete removes files and trees that no longer exist, and uploads new ones."""
    plant(daemon.home(), {b"old/deep/er": b"1", b"-old": b"2", b"stays": b"3", b"gone dir": None})
    plant(tmp_path / "tree", {b"stays": b"3", b"new/file": b"4"})
    lftp(daemon, f"mirror -R --delete {tmp_path / 'tree'} /")
    assert harvest(daemon.home()) == harvest(tmp_path / "tree")


@pytest.mark.parametrize("direction", ["down", "up"])
def test_mirror_of_bytes_that_are_not_utf_8(daemon: Daemon, tmp_path: Path, direction: str) -> None:
    """Names in another charset, also with 255, which Telnet uses, keep their bytes."""
    tree: dict[bytes, bytes | None] = {b"a\xffb": b"1", b"\xe4\xf6\xfc": b"2", b"\xff": b"3"}
    local = tmp_path / "tree"
    local.mkdir()
    # Told that the server speaks UTF-8, lftp can say nothing else.
    settings = "set ftp:use-feat false"
    if direction == "down":
        plant(daemon.home(), tree)
        lftp(daemon, f"mirror / {local}", settings)
        assert harvest(local) == digests(tree)
    else:
        plant(local, tree)
        lftp(daemon, f"mirror -R {local} /", settings)
        assert harvest(daemon.home()) == digests(tree)


def test_mirror_of_2000_files(daemon: Daemon, tmp_path: Path) -> None:
    """A mirror of a directory of 2,000 files would download all of them."""
    plant(daemon.home(), {b"many/file %05d" % number: b"" for number in range(2000)})
    said = lftp(daemon, f"mirror --dry-run --verbose=3 /many {tmp_path / 'many'}")
    assert len(set(re.findall(r"file(?:%20|\\? )(\d{5})", said))) == 2000, said[:2000]


# --- get and put -----------------------------------------------------------------------------------


def test_pget(daemon: Daemon, tmp_path: Path) -> None:
    """pget -n 4 downloads the pieces of a file in several sessions, and joins them."""
    content = random.Random(6).randbytes(10 * 1024 * 1024)
    (daemon.home() / "large file.bin").write_bytes(content)
    before = len(re.findall("RETR large file.bin", daemon.log))
    # Not at full speed: the first session would be done before the others have logged in.
    lftp(daemon, f"lcd {tmp_path}\npget -n 4 'large file.bin'", "set net:limit-rate 5000000")
    got = (tmp_path / "large file.bin").read_bytes()
    assert hashlib.sha256(got).digest() == hashlib.sha256(content).digest()
    daemon.wait_for_log(rf"(?:RETR large file\.bin[\s\S]*?){{{before + 2}}}")


def test_get_is_resumed(daemon: Daemon, tmp_path: Path) -> None:
    """get -c downloads the missing bytes."""
    (daemon.home() / "file.bin").write_bytes(CONTENT)
    (tmp_path / "file.bin").write_bytes(CONTENT[:1_000_000])
    lftp(daemon, f"lcd {tmp_path}\nget -c file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_put_is_resumed(daemon: Daemon, tmp_path: Path) -> None:
    """put -c resumes a cut upload where it ended."""
    with secured(daemon) as client:
        data = client.connect_data()
        client.expect(150, "STOR file.bin")
        with client.secure_data(data) as connection:
            connection.sendall(CONTENT[:1_234_567])
        assert client.reply().startswith("426 ")
        kept = int(client.expect(213, "SIZE file.bin")[4:])
    assert not (daemon.home() / "file.bin").exists()
    (tmp_path / "file.bin").write_bytes(CONTENT)
    lftp(daemon, f"lcd {tmp_path}\nput -c file.bin")
    assert hashlib.sha256((daemon.home() / "file.bin").read_bytes()).digest() == (hashlib.sha256(CONTENT).digest())
    assert os.listdir(daemon.home()) == ["file.bin"]
    daemon.wait_for_log(f"file.bin: 226 Transfer complete: {len(CONTENT) - kept} bytes in file.bin")


@pytest.mark.parametrize("mode", ["passive", "active", "PASV", "implicit"])
@pytest.mark.parametrize("content", [b"", b"x", CONTENT], ids=["empty", "1 byte", "3 MiB"])
def test_round_trip(daemon: Daemon, tmp_path: Path, mode: str, content: bytes) -> None:
    """The same bytes up and down, however the data connection is made."""
    (tmp_path / "source").write_bytes(content)
    settings = {
        "passive": (),
        "active": ("set ftp:passive-mode false",),
        "PASV": ("set ftp:prefer-epsv false",),
        "implicit": (),
    }[mode]
    where = f"open -u alice,secret ftps://{daemon.host}:{daemon.implicit_port}\n" if mode == "implicit" else ""
    lftp(daemon, f"{where}lcd {tmp_path}\nput source\nget source -o target", *settings)
    assert (daemon.home() / "source").read_bytes() == content
    assert (tmp_path / "target").read_bytes() == content


def test_put_with_a_temporary_name(daemon: Daemon, tmp_path: Path) -> None:
    """xfer:use-temp-file: lftp uploads under another name, then renames."""
    (tmp_path / "file").write_bytes(b"content")
    lftp(daemon, f"lcd {tmp_path}\nput file", "set xfer:use-temp-file true")
    assert os.listdir(daemon.home()) == ["file"]
    assert (daemon.home() / "file").read_bytes() == b"content"


def test_ascii(daemon: Daemon, tmp_path: Path) -> None:
    """get -a and put -a: CRLF on the network, LF on both sides."""
    (tmp_path / "text").write_bytes(b"one\ntwo\n\nfour\n")
    lftp(daemon, f"lcd {tmp_path}\nput -a text\nget -a text -o copy")
    assert (daemon.home() / "text").read_bytes() == b"one\ntwo\n\nfour\n"
    assert (tmp_path / "copy").read_bytes() == b"one\ntwo\n\nfour\n"


# --- names -----------------------------------------------------------------------------------------


def test_chmod(daemon: Daemon) -> None:
    """chmod of a file, of several, and with letters, which lftp computes from a listing."""
    plant(daemon.home(), {b"a b": b"", b"-c": b"", b"d": None})
    lftp(daemon, 'chmod 600 "a b" ./-c\nchmod 700 d\nchmod g+r "a b"')
    modes = {each.name: each.stat().st_mode & 0o777 for each in daemon.home().iterdir()}
    assert modes == {"a b": 0o640, "-c": 0o600, "d": 0o700}


def test_mv_and_rm(daemon: Daemon) -> None:
    """mv, rm, rm -r, mkdir -p, rmdir."""
    plant(daemon.home(), {b"a": b"1", b"b c": b"2", b"tree/deep/er": b"3", b"tree/-x": b"4", b"other": None})
    lftp(daemon, 'mv a "new name"\nrm "b c"\nrm -r tree\nmkdir -p one/two/three\nrmdir other\nmv one uno')
    assert harvest(daemon.home()) == digests({b"new name": b"1", b"uno/two/three": None})
    said = lftp(daemon, "rm nothing", fails=True)
    assert "550" in said


def test_glob(daemon: Daemon, tmp_path: Path) -> None:
    """mget, mrm and glob use the names that match, and no others."""
    tree = {f"file {number}.txt".encode(): b"%d" % number for number in range(20)}
    plant(daemon.home(), {**tree, b"file.bin": b"no", b"sub/file x.txt": b"x"})
    lftp(daemon, f"lcd {tmp_path}\nmget file*.txt\nmget -d s*/*.txt\nglob --exist file?1*.txt")
    assert harvest(tmp_path) == digests({**tree, b"sub/file x.txt": b"x"})
    lftp(daemon, "mrm *.txt")
    assert harvest(daemon.home()) == digests({b"file.bin": b"no", b"sub/file x.txt": b"x"})
    lftp(daemon, "glob --exist *.txt", fails=True)


def test_ls(daemon: Daemon) -> None:
    """`ls -la` lists hidden files, the directory itself and its parent; of a file, the file. `nlist` lists names."""
    plant(daemon.home(), {b".hidden": b"", b"file one": b"12345", b"sub/in": b""})
    lines = lftp(daemon, "ls -la").splitlines()
    assert [line.split(maxsplit=8)[8] for line in lines] == [".", "..", ".hidden", "file one", "sub"]
    assert re.fullmatch(r"-rw-r--r-- .* 5 .* file one", lines[3])
    assert lftp(daemon, 'ls "file one"').splitlines()[0].endswith("file one")
    assert [line.rpartition("/")[2] for line in lftp(daemon, "nlist sub").splitlines()] == ["in"]
    assert sorted(lftp(daemon, "nlist").splitlines()) in (
        [".hidden", "file one", "sub"],
        ["file one", "sub"],
    )


def test_cls_and_du(daemon: Daemon) -> None:
    """lftp understands the listings: cls, find and du with MLSD and with LIST."""
    plant(daemon.home(), {b"a/b c/d": b"12345", b"-e": b"1"})
    for facts in ("true", "false"):
        settings = f"set ftp:use-mlsd {facts}"
        said = lftp(daemon, "cls -1 --sort=name\nfind a\ndu -b a", settings).splitlines()
        assert said[:2] == ["-e", "a/"]
        assert "a/b c/d" in said
        assert any(re.match(r"\d*5\s", line) for line in said), said


def test_cd(daemon: Daemon) -> None:
    """cd fails for a missing directory, and pwd returns the present one, quotes included."""
    plant(daemon.home(), {b'a "b" c/d': None})
    said = lftp(daemon, "cd 'a \"b\" c/d'\npwd\ncd ..\npwd")
    assert [line.partition(str(daemon.port))[2] for line in said.splitlines() if "ftp://" in line] == [
        "/a%20%22b%22%20c/d",
        "/a%20%22b%22%20c",
    ]
    assert "550" in lftp(daemon, "cd nowhere", fails=True)


def test_wrong_password(daemon: Daemon) -> None:
    """A wrong password is reported, and not tried again and again."""
    line = f"open -u alice,wrong {daemon.host}:{daemon.port}\nls"
    assert "530" in lftp(daemon, line, fails=True)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize(("protect", "sessions"), [("no", 200), ("yes", 10)], ids=["plain data", "encrypted data"])
def test_clear_command_channel(make_daemon: Callable[..., Daemon], protect: str, sessions: int, version: str) -> None:
    """lftp ends TLS by CCC, session after session: it sends close_notify first, and the daemon's does not cross it.

    Afterwards it cannot resume the session of the control connection.
    """
    daemon = make_daemon(merge(PLAIN, {"tls": {"data_session": "allow"}}))
    (daemon.home() / "file").write_text("content\n")
    settings = (
        "set ftp:ssl-use-ccc yes",
        f"set ftp:ssl-protect-data {protect}",
        f'set ssl:priority "NORMAL:-VERS-ALL:+VERS-TLS{version}"',
    )
    assert lftp(daemon, "cat file\nclose\n" * sessions, *settings) == "content\n" * sessions
    wait_until(lambda: daemon.log.count("CCC: 200") == sessions, "the log has every CCC")


def test_a_wrong_password_is_sent_once(make_daemon: Callable[..., Daemon]) -> None:
    """lftp gives up after the last wrong password of a session, although it may try five times."""
    daemon = make_daemon({"limits": {"login_failures": 1}})
    line = f"open -u alice,wrong {daemon.host}:{daemon.port}\nls"
    lftp(daemon, line, "set net:max-retries 5", fails=True)
    assert daemon.log.count("login failed for alice") == 1


# --- CCC -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passive", ["yes", "no"])
def test_plain_commands_after_the_login(make_daemon: Callable[..., Daemon], tmp_path: Path, passive: str) -> None:
    """With CCC, lftp needs `data_session: allow`: it has no TLS session of the control connection left to resume."""
    daemon = make_daemon(merge(PLAIN, {"tls": {"data_session": "allow"}}))
    names = {path: content for path, content in TREE.items() if path != b"large.bin"}
    plant(tmp_path / "up", names)
    line = f"mirror -R {tmp_path}/up /tree; mirror /tree {tmp_path}/down; rm -r tree"
    lftp(daemon, line, "set ftp:ssl-use-ccc yes", f"set ftp:passive-mode {passive}")
    assert harvest(tmp_path / "down") == digests(names)
    assert os.listdir(daemon.home()) == []
    assert "CCC: 200" in daemon.log and "TLS failed" not in daemon.log
    daemon.settings["tls"]["data_session"] = "require"
    daemon.write()
    daemon.reload()
    assert "522" in lftp(daemon, "ls", "set ftp:ssl-use-ccc yes", fails=True)
