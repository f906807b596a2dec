"""Anonymous logins: off by default, with limits of their own, in a home that is no user's, and a drop box."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftpsd.accounts.anonymous import AnonymousStore, anonymous_user
from ftpsd.accounts.user_store import LOCAL, InvalidRecord, UnknownUser
from ftpsd.config import load
from ftpsd.config.sections.anonymous import AnonymousSettings
from tests.daemon import PATIENCE, Daemon
from tests.ftpclient import FtpClient, secured
from tests.hostile import MIB, attempts, withstands
from tests.memory_sources import Chain, MemorySource, admit, result
from tests.test_configuration import GOOD, faults, files
from tests.test_quota import try_upload

__all__ = ["files"]

MakeDaemon = Callable[..., Daemon]


def with_anonymous(make_daemon: MakeDaemon, more: dict[str, Any] | None = None, **anonymous: Any) -> Daemon:
    """A daemon with the directory `public` for anonymous users."""
    daemon = make_daemon(more or {}, start=False)
    home = daemon.directory / "public"
    home.mkdir()
    (home / "hello").write_bytes(b"hello")
    daemon.settings["anonymous"] = {"home": str(home), **anonymous}
    daemon.write()
    return daemon.start()


class Visit(FtpClient):
    """A client that has tried to log in over TLS; `answer` is the reply to PASS."""

    def __init__(self, daemon: Daemon, user: str = "anonymous", password: str = "guest@example.com") -> None:
        super().__init__(daemon)
        self.start_tls()
        self.expect(331, f"USER {user}")
        self.answer = self.command(f"PASS {password}")
        if self.answer.startswith("230 "):
            for line in ("PBSZ 0", "PROT P", "TYPE I"):
                self.expect(200, line)


def refused(client: FtpClient, line: str) -> str:
    """Return the refusal of a transfer."""
    client.passive_port()
    return client.command(line)


# --- logins ------------------------------------------------------------------------------------------


def test_off_by_default(make_daemon: MakeDaemon) -> None:
    """Without the section, nobody has these names: they get 530, as any unknown name does."""
    daemon = make_daemon()
    with withstands(daemon):
        for name in ("anonymous", "ftp"):
            with Visit(daemon, name) as client:
                assert client.answer == "530 Login incorrect."


@pytest.mark.parametrize("name", ["anonymous", "ftp"])
def test_read_only(make_daemon: MakeDaemon, name: str) -> None:
    """Any password lets a client in, also none; it can list and download, and change nothing."""
    daemon = with_anonymous(make_daemon)
    with withstands(daemon):
        for password in ("guest@example.com", "x", "123456", "-"):
            with Visit(daemon, name, password) as client:
                assert client.answer.startswith("230 ")
                assert client.download("RETR hello") == b"hello"
                assert b"hello" in client.download("NLST")
                for line in ("DELE hello", "RNFR hello", "MKD d", "SITE CHMOD 600 hello"):
                    client.expect(550, line)
                assert refused(client, "STOR new").startswith("550 ")
    assert "guest@example.com" not in daemon.log
    daemon.wait_for_log("anonymous")


def test_tls_is_required_as_configured(make_daemon: MakeDaemon) -> None:
    """Without TLS an anonymous user gets 530 unless the settings permit plain text."""
    daemon = with_anonymous(make_daemon)
    with FtpClient(daemon) as client:
        assert "Encryption required" in client.expect(530, "USER anonymous")


def test_no_bans(make_daemon: MakeDaemon) -> None:
    """Anonymous logins are no failures, and do not undo those of other names: these are banned as without them."""
    daemon = with_anonymous(make_daemon, {"bans": {"attempts": 3, "allow": []}})
    for number in range(3):
        for _ in range(3):
            with Visit(daemon) as client:
                assert client.answer.startswith("230 ")
        with Visit(daemon, "alice", f"wrong{number}") as client:
            assert client.answer.startswith("530 ")
    with socket.create_connection((daemon.host, daemon.port), timeout=PATIENCE) as connection:
        assert connection.recv(100).startswith(b"421 ")


def test_limits_per_address(make_daemon: MakeDaemon) -> None:
    """One session too many of an address gets 421, one too many in all gets it too; users of the server do not."""
    daemon = with_anonymous(make_daemon, limits={"sessions_per_address": 2, "sessions": 3})
    with withstands(daemon), Visit(daemon), Visit(daemon, "ftp"):
        with Visit(daemon) as third:
            assert third.answer.startswith("421 Too many sessions of anonymous users from your address (limit: 2)")


def test_limits_in_all(make_daemon: MakeDaemon) -> None:
    """Both names count together."""
    daemon = with_anonymous(make_daemon, limits={"sessions": 2})
    with withstands(daemon), Visit(daemon), Visit(daemon, "ftp"), Visit(daemon) as third:
        assert third.answer.startswith("421 Too many sessions of this user (limit: 2)")


def test_a_reload_turns_it_on_and_off(make_daemon: MakeDaemon) -> None:
    """A reload adds and removes the section for new sessions; running ones continue."""
    daemon = make_daemon(start=False)
    public = daemon.directory / "homes" / "public"
    public.mkdir()
    daemon.start()
    with withstands(daemon):
        daemon.settings["anonymous"] = {"home": str(public)}
        daemon.write()
        daemon.reload()
        with Visit(daemon) as client:
            assert client.answer.startswith("230 ")
            del daemon.settings["anonymous"]
            daemon.write()
            daemon.reload()
            client.expect(257, "PWD")
            with Visit(daemon) as other:
                assert other.answer.startswith("530 ")


# --- the drop box ------------------------------------------------------------------------------------


def test_the_drop_box(make_daemon: MakeDaemon) -> None:
    """Each upload is a new file; nothing can be listed, read, replaced, resumed, renamed or removed."""
    daemon = with_anonymous(make_daemon, permissions="drop-box")
    public = daemon.directory / "public"
    with withstands(daemon), Visit(daemon) as client:
        for line in ("STOR hello", "APPE hello", "STOU hello", "STOR report.pdf", "STOR report.pdf"):
            assert client.upload(line, line.encode()).startswith("226 ")
        assert (public / "hello").read_bytes() == b"hello"
        assert len(list(public.glob("hello.*"))) == 3 and len(list(public.glob("report.pdf.*"))) == 2
        for path in ("hello", next(public.glob("report*")).name):
            for line in (f"SIZE {path}", f"MDTM {path}", f"MLST {path}", f"DELE {path}", f"RNFR {path}", f"CWD {path}"):
                client.expect(550, line)
        for line in ("RETR hello", "LIST", "NLST", "MLSD"):
            assert refused(client, line).startswith("550 ")
        client.expect(350, "REST 3")
        assert refused(client, "STOR hello").startswith("553 ")


def test_the_drop_box_reveals_no_names(make_daemon: MakeDaemon) -> None:
    """Every command gets the same replies for a name that exists and for one that does not."""
    daemon = with_anonymous(make_daemon, permissions="drop-box")
    with withstands(daemon), Visit(daemon) as client:
        said = [
            re.sub(r"\.[0-9a-f]{8}", "", attempts(client, name)).replace(name, "NAME") for name in ("hello", "nobody")
        ]
        assert said[0] == said[1]
        client.expect(250, "CWD /")
        for line in ("STOR {}/below", "APPE {}/below", "STOU {}/below", "CWD {}/below", "SIZE {}/below"):
            found, missing = (refused(client, line.replace("{}", name)) for name in ("hello", "nobody"))
            assert found.replace("hello", "NAME") == missing.replace("nobody", "NAME") and found[0] == "5", line


def test_directories_in_the_drop_box(make_daemon: MakeDaemon) -> None:
    """A directory that the administrator has made takes uploads, and shows nothing; clients make and remove none."""
    daemon = with_anonymous(make_daemon, permissions="drop-box")
    below = daemon.directory / "public" / "below"
    below.mkdir()
    (below / "hello").write_bytes(b"hello")
    with withstands(daemon), Visit(daemon) as client:
        assert client.upload("STOR below/hello", b"new").startswith("226 ")
        client.expect(250, "CWD below")
        assert client.upload("STOR hello", b"new").startswith("226 ")
        assert (below / "hello").read_bytes() == b"hello" and len(list(below.glob("hello.*"))) == 2
        for line in ("LIST", "NLST -R", "MLSD /below", "RETR hello", "RETR /below/hello"):
            assert refused(client, line).startswith("550 "), line
        for line in ("STAT .", "MLST /below", "MKD new", "RMD /below", "RMDA /below", "RNFR /below", "SIZE hello"):
            client.expect(550, line)


def test_the_quota_of_the_drop_box(make_daemon: MakeDaemon) -> None:
    """The drop box may be filled up to its quota."""
    daemon = with_anonymous(make_daemon, permissions="drop-box", quota={"bytes": "1M"})
    with withstands(daemon), Visit(daemon) as client:
        assert client.upload("STOR a", bytes(MIB // 2)).startswith("226 ")
        assert try_upload(client, "STOR b", bytes(MIB)).startswith("552 Quota exceeded")


def test_a_user_empties_the_drop_box(make_daemon: MakeDaemon) -> None:
    """A user to whom the drop box is a folder reads and deletes what was sent; the quota counts that at once."""
    daemon = with_anonymous(make_daemon, permissions="drop-box", quota={"bytes": "1M"})
    public = daemon.directory / "public"
    daemon.users["alice"] = {"folders": {"/box": {"path": str(public)}}}
    daemon.write()
    daemon.reload()
    with withstands(daemon), Visit(daemon) as client, secured(daemon) as alice:
        assert client.upload("STOR a", bytes(MIB - 1000)).startswith("226 ")
        assert try_upload(client, "STOR b", bytes(5000)).startswith("552 ")
        (name,) = (path.name for path in public.glob("a.*"))
        assert len(alice.download(f"RETR /box/{name}")) == MIB - 1000
        alice.expect(250, f"DELE /box/{name}")
        assert client.upload("STOR b", bytes(5000)).startswith("226 ")


# --- faults ------------------------------------------------------------------------------------------


@pytest.mark.quick
@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("{home: nowhere}", "anonymous.home: nowhere is not a directory. Create it: install -d"),
        ("{}", "anonymous.home: is missing."),
        ("{home: home}", "anonymous.home: home and home, the home of a user, are the same or lie in each other."),
        ("{home: home/inside}", "anonymous.home: home/inside and home, the home of a user"),
        ('{home: ""}', "anonymous.home: is empty."),
        ("{home: .}", "the home of a user, are the same or lie in each other. Choose a separate directory."),
        (
            "{home: other, permissions: read-write}",
            "“read-write” is not a valid value. Write one of: drop-box, read-only.",
        ),
        ("{home: other, limits: {sessions: 0}}", "anonymous.limits.sessions: 0 is too small"),
        (
            "{home: other, limits: {upload_rate_per_address: 5}}",
            "anonymous.limits.upload_rate_per_address: 5 is too small",
        ),
    ],
)
def test_faults(files: Path, section: str, expected: str) -> None:
    """A home that is a user's, lies in one or contains one is a fault, and so is what a user has."""
    for name in ("home/inside", "other"):
        (files / name).mkdir(parents=True)
    found = faults(files, GOOD + f"anonymous: {section}\n")
    assert len(found) == 1 and expected in found[0], found


@pytest.mark.quick
@pytest.mark.parametrize("home", ["other", "other/in/deep"])
@pytest.mark.parametrize("counted", ["home", "folder", ""])
@pytest.mark.parametrize("permissions", ["read-write", "read-only"])
def test_folders_around_and_in_the_home(files: Path, home: str, counted: str, permissions: str) -> None:
    """Folders around or in the home are a fault if users write there and one of the two has a quota."""
    (files / "other/in/deep").mkdir(parents=True)
    quota = ", quota: {bytes: 1M}"
    folder = f"{{path: other/in, permissions: {permissions}{quota if counted == 'folder' else ''}}}"
    users = (files / "users.yaml").read_text() + f"folders: {{/in: {folder}}}\n"
    section = f"anonymous: {{home: {home}, permissions: drop-box{quota if counted == 'home' else ''}}}\n"
    if not counted or permissions == "read-only":
        (files / "ftpsd.yaml").write_text(GOOD + section)
        (files / "users.yaml").write_text(users)
        load.load(files / "ftpsd.yaml")
    else:
        (found,) = faults(files, GOOD + section, users)
        assert f"anonymous.home: {home} and other/in lie in each other, and have a quota" in found, found


@pytest.mark.quick
def test_a_home_with_the_configuration(files: Path) -> None:
    """A home that contains ftpsd.yaml is a fault: everybody could read it."""
    found = faults(files, GOOD + "anonymous: {home: .}\n", "users: {}\n")
    assert len(found) == 1 and "ftpsd.yaml, which is not for everybody. Choose" in found[0], found


def test_a_user_of_that_name(files: Path) -> None:
    """A user named ftp is a fault while anonymous logins are on."""
    (files / "other").mkdir()
    users = (files / "users.yaml").read_text().replace("alice:", "ftp:")
    assert "there is a user ftp" in faults(files, GOOD + "anonymous: {home: other}\n", users)[0]


@pytest.mark.quick
def test_another_spelling_of_an_anonymous_name(tmp_path: Path) -> None:
    """A user of a source that ignores case cannot log in as `FTP`: limits and the log know anonymous users by that name."""
    source = MemorySource(ftp={"plain": "secret", "home": "bob"}, bob={"plain": "secret", "home": "bob"})
    source.ignores_case = True
    chain = Chain(tmp_path, source)
    public = anonymous_user(AnonymousSettings(home=str(tmp_path)), str(tmp_path))
    store = AnonymousStore(chain.store, public)
    for name in ("FTP", "Ftp"):
        with pytest.raises(UnknownUser):
            result(store.verify(name, "secret", LOCAL, admit))
        with pytest.raises(UnknownUser):
            result(store.find(name))
    assert result(store.verify("ftp", "secret", LOCAL, admit)) is public
    assert result(store.verify("BOB", "secret", LOCAL, admit)).name == "bob"


@pytest.mark.quick
def test_a_user_of_another_source(files: Path) -> None:
    """A user whose home is only known at the login gets no home in or around that of anonymous users."""
    (files / "public" / "alice").mkdir(parents=True)
    (files / "private").mkdir()
    (files / "ftpsd.yaml").write_text(GOOD + f"anonymous: {{home: public}}\nsandbox: {{homes: [{files}]}}\n")
    builder = load.load(files / "ftpsd.yaml").builder
    assert builder.build("bob", {"home": str(files / "private")}).home == str(files / "private")
    for home in ("public", "public/alice"):
        with pytest.raises(InvalidRecord, match="the home of anonymous users"):
            builder.build("alice", {"home": str(files / home)})
