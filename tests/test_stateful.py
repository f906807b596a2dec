"""Whole sessions with random commands, against a model of the user's tree (`tests/fuzz/model.py`)."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import ssl
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path as DiskPath

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ftpsd.limits.home_counts import Amount
from ftpsd.storage.local.measure import DirectoryMeter
from ftpsd.storage.local.part_files import PRIVATE, part_name
from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon
from tests.fuzz import MINUTES
from tests.fuzz.client import Sending, User
from tests.fuzz.model import Directory, File, Path, Refused, Tree

NAMES = st.sampled_from(
    ["a", "b", "c d", " lead", "trail ", 'q"uo"te', "-rf", ".dot", "ünï", "日本", "caf\udce9", "\udcff", "*", "[a]"]
) | st.sampled_from(["x;y=z", "...", "a\\b", "%s", "ta\tb", "'", "~", "n" * 255, "{}", "é" * 127])

EXISTING = st.runner().flatmap(lambda self: st.sampled_from([path for path, _ in self.tree.walk()]))
DIRECTORIES = st.runner().flatmap(
    lambda self: st.sampled_from([path for path, node in self.tree.walk() if isinstance(node, Directory)])
)
KEPT = st.runner().flatmap(
    lambda self: st.sampled_from(
        [(*path, name) for path, node in self.tree.walk() if isinstance(node, Directory) for name in node.kept]
        or [("a",)]
    )
)
INSIDE = st.builds(lambda directory, name: (*directory, name), DIRECTORIES, NAMES)
RUNNING = st.runner().flatmap(
    lambda self: st.sampled_from(
        [
            (*path, upload.name)
            for upload in self.tree.running
            if (path := self.tree.path_of(upload.directory)) is not None
        ]
        or [("a",)]
    )
)
PATHS = EXISTING | INSIDE | KEPT | RUNNING | st.lists(NAMES, min_size=1, max_size=3).map(tuple)


class Bulk(bytes):
    """Large content, with a short representation: hypothesis keeps what it prints of each step."""

    def __repr__(self) -> str:
        return f"Bulk({bytes(self[:10])!r}, {len(self)})"


DATA = st.binary(max_size=20) | st.sampled_from(
    [b"", b"line\r\nline\nline\r", b"\r\n", b"\xff\xf4\xf2", Bulk(b"0123456789" * 20_000), Bulk(b"x\r\n" * 50_000)]
)
#: A line of LIST: what it is, its size, its name.
LINE = r"([d-])\S{9} +\d+ ftp +ftp +(\d+) .{12} (.*)"

#: Examples of one search.
ROUND = 2000

SPELLINGS = st.integers(0, 4)
SESSIONS = st.integers(0, 1)


class Sessions(RuleBasedStateMachine):
    """Two sessions of one user change a tree, and a third one reads it."""

    daemon: Daemon

    #: The folders, and their directories.
    folders: Mapping[Path, DiskPath] = {}
    #: The users of the two sessions.
    names = ("alice", "alice")

    def __init__(self) -> None:
        super().__init__()
        self.tree = Tree()
        for path in self.folders:
            self.tree.add_folder(path)
        self.home = self.daemon.home()
        self.places = {(): self.home, **self.folders}
        for place in self.places.values():
            for entry in place.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        self.log_start = self.daemon.log_file.stat().st_size
        self.users: list[User] = []
        self.watcher = User(self.daemon, False)

    @initialize(encrypted=st.booleans())
    def begin(self, encrypted: bool) -> None:
        self.users = [User(self.daemon, True, self.names[0]), User(self.daemon, encrypted, self.names[1])]

    def teardown(self) -> None:
        for user in (*self.users, self.watcher):
            if user.sending is not None:
                user.sending.connection.close()
            user.client.socket.close()
        deadline = time.monotonic() + PATIENCE
        while held := self.held():
            assert time.monotonic() < deadline, f"the daemon holds on to {held}"
            time.sleep(0.005)
        with self.daemon.log_file.open("rb") as log:
            log.seek(self.log_start)
            text = log.read().decode(errors="replace")
        assert "Traceback" not in text and "internal error" not in text, text[-4000:]

    def held(self) -> list[str]:
        """Return the files of the home that the daemon has open."""
        found = []
        for link in DiskPath(f"/proc/{self.daemon.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.append(os.readlink(link))
        return [each for each in found if each.startswith(tuple(map(str, self.places.values())))]

    # --- helpers -----------------------------------------------------------------------------------

    def free(self, number: int) -> User | None:
        """Return a session without a running upload: that with the number, if possible."""
        return next((each for each in (self.users[number], self.users[1 - number]) if each.sending is None), None)

    def expect(self, number: int, code: int, line: Callable[[User], str], change: Callable[[], object]) -> str:
        """Send a command whose change the model makes, too.

        Its reply must have this code, or be the model's refusal.
        """
        user = self.free(number)
        if user is None:
            return ""
        try:
            change()
        except Refused as refused:
            code = refused.code
        said = line(user)
        reply = user.command(said)
        assert reply.startswith(str(code)), f"{said!r}: {reply!r}, and the model says {code}"
        return reply

    def disk(self, path: Path) -> DiskPath:
        mount = self.tree.mount(path)
        return DiskPath(self.places[mount], *path[len(mount) :])

    def parts(self, directory: Directory) -> frozenset[str]:
        """Return the part files of a directory."""
        path = self.tree.path_of(directory)
        names = os.listdir(self.disk(path)) if path is not None and not directory.is_virtual else []
        return frozenset(name for name in names if name.startswith(PRIVATE))

    # --- directories and names ---------------------------------------------------------------------

    @rule(number=SESSIONS, path=PATHS, how=SPELLINGS)
    def mkd(self, number: int, path: Path, how: int) -> None:
        reply = self.expect(
            number, 257, lambda user: f"MKD {user.name(path, how)}", lambda: self.tree.make_directory(path)
        )
        if reply.startswith("257"):
            quoted = "/".join(path).replace('"', '""')
            assert reply.startswith(f'257 "/{quoted}" ')

    @rule(number=SESSIONS, path=PATHS, how=SPELLINGS, whole=st.booleans())
    def rmd(self, number: int, path: Path, how: int, whole: bool) -> None:
        verb, change = ("RMDA", self.tree.remove_tree) if whole else ("RMD", self.tree.remove_directory)
        self.expect(number, 250, lambda user: f"{verb} {user.name(path, how)}", lambda: change(path))

    @rule(number=SESSIONS, path=PATHS, how=SPELLINGS)
    def dele(self, number: int, path: Path, how: int) -> None:
        self.expect(number, 250, lambda user: f"DELE {user.name(path, how)}", lambda: self.tree.remove(path))

    @rule(number=SESSIONS, path=PATHS, how=SPELLINGS)
    def rnfr(self, number: int, path: Path, how: int) -> None:
        user = self.free(number)
        if user is None:
            return
        user.rename_from = None
        reply = self.expect(
            self.users.index(user), 350, lambda user: f"RNFR {user.name(path, how)}", lambda: self.tree.find(path)
        )
        if reply.startswith("350"):
            user.rename_from = path

    @rule(number=SESSIONS, path=PATHS, how=SPELLINGS)
    def rnto(self, number: int, path: Path, how: int) -> None:
        user = self.free(number)
        if user is None:
            return
        old, user.rename_from = user.rename_from, None

        def change() -> None:
            if old is None:
                raise Refused(503)
            self.tree.rename(old, path)

        self.expect(self.users.index(user), 250, lambda user: f"RNTO {user.name(path, how)}", change)

    @rule(number=SESSIONS, path=EXISTING | INSIDE, new=INSIDE, how=SPELLINGS)
    def rename(self, number: int, path: Path, new: Path, how: int) -> None:
        self.rnfr(number, path, how)
        self.rnto(number, new, how)

    @rule(number=SESSIONS, path=PATHS, how=SPELLINGS)
    def cwd(self, number: int, path: Path, how: int) -> None:
        user = self.free(number)
        if user is None:
            return
        reply = self.expect(
            self.users.index(user), 250, lambda user: f"CWD {user.name(path, how)}", lambda: self.tree.directory(path)
        )
        if reply.startswith("250"):
            user.directory = path
        self.pwd(user)

    @rule(number=SESSIONS)
    def cdup(self, number: int) -> None:
        user = self.free(number)
        if user is None:
            return
        above = user.directory[:-1]
        if self.expect(self.users.index(user), 250, lambda _: "CDUP", lambda: self.tree.directory(above)).startswith(
            "250"
        ):
            user.directory = above
        self.pwd(user)

    def pwd(self, user: User) -> None:
        quoted = "/".join(user.directory).replace('"', '""')
        assert user.command("PWD").startswith(f'257 "/{quoted}" ')

    # --- facts -------------------------------------------------------------------------------------

    @rule(number=SESSIONS, path=PATHS, how=SPELLINGS, seconds=st.integers(1, 2**32))
    def mfmt(self, number: int, path: Path, how: int, seconds: int) -> None:
        def change() -> None:
            node = self.tree.changeable(path)
            node.modified, node.changes = seconds, node.changes + 1

        digits = time.strftime("%Y%m%d%H%M%S", time.gmtime(seconds))
        self.expect(number, 213, lambda user: f"MFMT {digits} {user.name(path, how)}", change)

    @rule(number=SESSIONS, path=PATHS, how=SPELLINGS, mode=st.sampled_from([0o700, 0o755, 0o777, 0o711]))
    def chmod(self, number: int, path: Path, how: int, mode: int) -> None:
        def change() -> None:
            node = self.tree.changeable(path)
            node.mode, node.changes = mode, node.changes + 1

        self.expect(number, 200, lambda user: f"SITE CHMOD {mode:o} {user.name(path, how)}", change)

    @rule(number=SESSIONS, path=PATHS, how=SPELLINGS)
    def facts(self, number: int, path: Path, how: int) -> None:
        """SIZE, MDTM, MLST and HASH of a name that may not exist."""
        found = self.free(number)
        if found is None:
            return
        user = found  # a name of its own, for mypy

        def size() -> str:
            if user.type == "A":
                raise Refused
            return f"213 {self.tree.size(path)}"

        def modified() -> str:
            self.tree.file(path)
            return f"213 {self.modified(path)}"

        def machine() -> str:
            if (data := self.tree.incomplete(path)) is not None:
                return f"250-Facts of /{'/'.join(path)}\r\n type=file;size={len(data)};"
            node = self.tree.find(path)
            if isinstance(node, Directory) and node.is_virtual:
                return f"250-Facts of /{'/'.join(path)}\r\n type=dir;modify="
            kind = "type=dir;" if isinstance(node, Directory) else f"type=file;size={len(node.data)};"
            return f"250-Facts of /{'/'.join(path)}\r\n {kind}modify={self.modified(path)};"

        def digest() -> str:
            data = self.tree.file(path, otherwise=553).data
            told = f"0-{max(len(data) - 1, 0)} {hashlib.sha256(data).hexdigest()}"
            return f"213 SHA-256 {told} /{'/'.join(path)}"

        for verb, say in (("SIZE", size), ("MDTM", modified), ("MLST", machine), ("HASH", digest)):
            try:
                expected = say()
            except Refused as refused:
                expected = f"{refused.code} "
            line = f"{verb} {user.name(path, how)}"
            reply = user.command(line)
            assert reply.startswith(expected), f"{line!r}: {reply!r} is not {expected!r}"

    def modified(self, path: Path) -> str:
        return time.strftime("%Y%m%d%H%M%S", time.gmtime(self.disk(path).stat().st_mtime))

    @rule(number=SESSIONS, kind=st.sampled_from("AI"))
    def type(self, number: int, kind: str) -> None:
        user = self.free(number)
        if user is not None:
            assert user.code(f"TYPE {kind}") == 200
            user.type = kind

    @rule(path=EXISTING | RUNNING, data=DATA)
    def local(self, path: Path, data: bytes) -> None:
        """Another program of the machine appends to a file."""
        with suppress(Refused):
            self.tree.file(path).add(data)
            with self.disk(path).open("ab") as file:
                file.write(data)

    # --- listings and downloads --------------------------------------------------------------------

    @rule(number=SESSIONS, path=EXISTING | INSIDE | KEPT, how=SPELLINGS, verb=st.sampled_from(["LIST", "NLST", "MLSD"]))
    def listing(self, number: int, path: Path, how: int, verb: str) -> None:
        user = self.free(number)
        if user is None or (path and any(sign in path[-1] for sign in "*[")):
            return
        code, names = 226, []
        said = user.name(path, how, flags=True)
        prefix = f"{said.rstrip('/')}/" if verb == "NLST" and said.rstrip("/") != "." and said else ""
        try:
            if self.tree.incomplete(path) is not None:
                node: File | Directory = File(b"")
            else:
                node = self.tree.find(path)
            if isinstance(node, File) and verb == "MLSD":
                raise Refused(501)
            names = [said]
            if isinstance(node, Directory):
                names = [prefix + name for name in sorted(node.names())]
        except Refused as refused:
            code = refused.code
        got, data = user.download(f"{verb} {user.name(path, how, flags=True)}")
        assert got == code
        pattern = {"LIST": LINE, "NLST": "(.*)", "MLSD": r"\S* (.*)"}[verb]
        lines = data.decode("utf-8", "surrogateescape").split("\r\n")
        assert lines.pop() == ""
        assert [re.fullmatch(pattern, line, re.DOTALL).groups()[-1] for line in lines] == names  # type: ignore[union-attr]

    @rule(number=SESSIONS, path=PATHS, how=SPELLINGS, offset=st.none() | st.integers(0, 30))
    def retr(self, number: int, path: Path, how: int, offset: int | None) -> None:
        user = self.free(number)
        if user is None:
            return
        code, data = 226, b""
        try:
            if offset and user.type == "A":
                raise Refused(504)
            data = self.tree.file(path).data
            if offset and offset > len(data):
                raise Refused(554)
        except Refused as refused:
            code, data = refused.code, b""
        if offset is not None:
            assert user.code(f"REST {offset}") == 350
        data = re.sub(rb"(?<!\r)\n", b"\r\n", data) if user.type == "A" else data[offset or 0 :]
        assert user.download(f"RETR {user.name(path, how)}") == (code, data)

    # --- uploads -----------------------------------------------------------------------------------

    @rule(
        number=SESSIONS,
        path=INSIDE | EXISTING | KEPT | RUNNING,
        how=SPELLINGS,
        data=DATA,
        verb=st.sampled_from(["STOR", "STOR", "APPE"]),
        offset=st.sampled_from([None, None, None, 0, 1, 5, 20]),
    )
    def upload(self, number: int, path: Path, how: int, data: bytes, verb: str, offset: int | None) -> None:
        """Begin an upload, and leave its data connection open."""
        user = self.free(number)
        if user is None:
            return
        code, upload = 150, None
        before = self.parts(self._holder(path))
        try:
            if verb == "STOR" and offset and user.type == "A":
                raise Refused(504)
            upload = self.tree.begin(path, offset or 0 if verb == "STOR" else 0, verb == "APPE")
        except Refused as refused:
            code = refused.code
        if offset is not None:
            assert user.code(f"REST {offset}") == 350
        line = f"{verb} {user.name(path, how)}"
        reply, connection = user.open(line)
        assert reply.startswith(str(code)), f"{line!r}: {reply!r}, and the model says {code}"
        if upload is None:
            connection.close()
            return
        connection.sendall(data)
        parts = self.parts(upload.directory) - before
        parts |= {part_name(upload.name)} if upload.first else set()
        user.sending = Sending(upload, connection, data, parts)

    def _holder(self, path: Path) -> Directory:
        with suppress(Refused):
            return self.tree.directory(path[:-1])
        return Directory()

    @rule(number=SESSIONS, path=INSIDE, data=DATA)
    def stou(self, number: int, path: Path, data: bytes) -> None:
        user = self.free(number)
        name = path[-1].strip()
        if user is None or len(name) > 100:
            return
        before = self.parts(self._holder(path))
        reply, connection = user.open(f"STOU {user.name((*path[:-1], name), 0)}")
        if self._holder(path).is_virtual:
            assert reply.startswith("550"), reply
            connection.close()
            return
        assert reply.startswith(f"150 FILE: {name}."), reply
        upload = self.tree.begin_unique(path[:-1], reply.removeprefix("150 FILE: "))
        connection.sendall(data)
        user.sending = Sending(upload, connection, data, self.parts(upload.directory) - before)

    def sending(self, number: int) -> tuple[User, Sending]:
        """Return a session with a running upload: that with the number, if it has one."""
        user = next(each for each in (self.users[number], self.users[1 - number]) if each.sending is not None)
        sending, user.sending = user.sending, None
        assert sending is not None
        return user, sending

    def uploading(self) -> bool:
        return any(user.sending is not None for user in self.users)

    @precondition(uploading)
    @rule(number=SESSIONS, more=DATA)
    def finish(self, number: int, more: bytes) -> None:
        user, sending = self.sending(number)
        sending.connection.sendall(more)
        complete = True
        if isinstance(sending.connection, ssl.SSLSocket):
            try:
                sending.connection = sending.connection.unwrap()
            except (
                ssl.SSLEOFError,
                ConnectionResetError,
            ):  # the server says close_notify to uploads that it has taken only
                complete = False
        sending.connection.close()
        data = sending.sent + more
        code = 226
        try:
            self.tree.finish(sending.upload, data.replace(b"\r\n", b"\n") if user.type == "A" else data)
        except Refused as refused:
            code = refused.code
        assert complete or code != 226
        reply = user.reply()
        assert reply.startswith(str(code)), f"{sending.upload}: {reply!r}, and the model says {code}"

    @precondition(lambda self: not self.uploading())
    @rule(
        number=SESSIONS,
        path=EXISTING | INSIDE,
        data=DATA,
        verb=st.sampled_from(["STOR", "APPE"]),
        way=st.sampled_from(["local", "dele", "rename", "upload", "append"]),
        other=DATA,
    )
    def contest(self, number: int, path: Path, data: bytes, verb: str, way: str, other: bytes) -> None:
        """One session continues a file, which is changed meanwhile."""
        if not isinstance(dict(self.tree.walk()).get(path), File):
            self.upload(number, path, 0, b"old", "STOR", None)
            if self.uploading():
                self.finish(number, b"")
        self.upload(number, path, 0, data, verb, 1 if verb == "STOR" else None)
        if not self.uploading():
            return
        if way == "local":
            self.local(path, other)
        elif way == "dele":
            self.dele(1 - number, path, 0)
        elif way == "rename":
            self.rename(1 - number, path, (*path[:-1], "moved"), 0)
        else:
            self.upload(1 - number, path, 0, other, "APPE" if way == "append" else "STOR", None)
            if self.users[1 - number].sending is not None:
                self.finish(1 - number, b"")
        self.finish(number, b"")

    @precondition(uploading)
    @rule(number=SESSIONS, way=st.sampled_from(["data", "data", "abort", "control"]))
    def cut(self, number: int, way: str) -> None:
        """The data connection is cut, or the client aborts or disappears."""
        user, sending = self.sending(number)
        user.sending = sending
        data = sending.sent.replace(b"\r\n", b"\n") if user.type == "A" else sending.sent
        self.let_arrive(sending, data)
        if way == "data":
            user.cut_data()
            assert user.reply().startswith("426")
        elif way == "abort":
            assert user.code("ABOR") == 426
            assert user.reply().startswith("226")
        else:
            user.client.socket.close()
            if not user.encrypted:  # without close_notify an upload that ends before the daemon's cut is complete
                with suppress(ConnectionResetError):
                    assert sending.connection.recv(1) == b""
            self.users[self.users.index(user)] = User(self.daemon, user.encrypted, user.user)
        user.sending = None
        sending.connection.close()
        content = self.what_is_kept(sending)
        whole = sending.upload.start + data
        if content is None:
            content = sending.upload.start
        assert whole.startswith(content)
        assert content.startswith(sending.upload.start)
        self.tree.cut(sending.upload, content[len(sending.upload.start) :])

    def let_arrive(self, sending: Sending, data: bytes) -> None:
        """Wait until all bytes are in the part file, except a CR before LF: hypothesis needs the same result each time."""
        path = self.tree.path_of(sending.upload.directory)
        wanted, deadline = len(sending.upload.start + data) - 1, time.monotonic() + 1
        while path is not None and time.monotonic() < deadline:
            for name in sending.parts:
                with suppress(FileNotFoundError):
                    if self.disk((*path, name)).stat().st_size >= wanted:
                        return
            time.sleep(0.002)

    def what_is_kept(self, sending: Sending) -> bytes | None:
        """Wait until the daemon has closed an upload's files.

        Return what it has kept under the name of the part file.
        """
        path = self.tree.path_of(sending.upload.directory)
        if path is None:
            return None
        usual = part_name(sending.upload.name)
        deadline = time.monotonic() + PATIENCE
        while (left := sending.parts & self.parts(sending.upload.directory)) - {usual} or self.locked(
            path, left & {usual}
        ):
            assert time.monotonic() < deadline, f"{left} are still held"
            time.sleep(0.005)
        found = self.disk((*path, usual))
        mine = sending.upload.first or sending.upload.name not in sending.upload.directory.kept
        return found.read_bytes() if mine and found.exists() and not self.locked(path, frozenset([usual])) else None

    def locked(self, path: Path, names: frozenset[str]) -> bool:
        """Return whether the daemon holds the lock of a part file."""
        for name in names:
            with suppress(FileNotFoundError), self.disk((*path, name)).open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
        return False

    # --- what holds after each step ----------------------------------------------------------------

    @invariant()
    def the_disk_agrees(self) -> None:
        """Names, contents, modes, times and part files on the disk are those of the model."""
        for path, node in self.tree.walk():
            if isinstance(node, Directory) and node.is_virtual:
                continue
            info = self.disk(path).stat()
            assert node.mode is None or stat.S_IMODE(info.st_mode) == node.mode, path
            if isinstance(node, File):
                assert self.disk(path).read_bytes() == node.data, path
                assert node.modified is None or int(info.st_mtime) == node.modified, path
                continue
            names = os.listdir(self.disk(path))
            entries = [name for name in node.entries if (*path, name) not in self.tree.fixed]
            assert sorted(name for name in names if not name.startswith(PRIVATE)) == sorted(entries), path
            for name, kept in node.kept.items():
                assert self.disk((*path, part_name(name))).read_bytes() == kept, (path, name)
            running = [upload for upload in self.tree.running if upload.directory is node]
            assert len(names) - len(entries) == len(node.kept) + sum(1 + each.copy for each in running), names

    @invariant()
    def the_server_agrees(self) -> None:
        """Another session sees the same names and sizes, and reads the same contents."""
        code, data = self.watcher.download("LIST -aR /")
        assert code == 226
        seen: dict[Path, int | None] = {}
        above: Path = ()
        for line in data.decode("utf-8", "surrogateescape").split("\r\n"):
            if match := re.fullmatch(LINE, line, re.DOTALL):
                name = match[3]
                if name not in (".", ".."):
                    seen[(*above, name)] = int(match[2]) if match[1] == "-" else None
            elif line:
                assert line.endswith(":")
                above = tuple(line[1:-1].split("/"))
        expected: dict[Path, int | None] = {}
        for path, node in self.tree.walk():
            expected[path] = len(node.data) if isinstance(node, File) else None
            if isinstance(node, Directory):
                expected |= {(*path, name): len(node.kept[name]) for name in node.names() - set(node.entries)}
        del expected[()]
        assert seen == expected
        for path, node in self.tree.walk():
            if isinstance(node, File):
                reply = self.watcher.command(f"HASH /{'/'.join(path)}")
                assert hashlib.sha256(node.data).hexdigest() in reply, (path, reply)


class SessionsWithFolders(Sessions):
    """Two users have one home and the same folders, each with a quota that must be counted exactly."""

    names = ("alice", "bob")

    def __init__(self) -> None:
        super().__init__()
        #: What the daemon still counts of the last example, whose files were removed behind its back.
        self.gone = self.miscounted()

    def local(self, path: Path, data: bytes) -> None:
        """Other programs change nothing here: their changes are not counted before the next count."""

    @invariant()
    def the_quotas_agree(self) -> None:
        """What is counted in the home and in each folder is what its disk holds, unless an upload runs."""
        if not self.uploading():
            assert self.miscounted() == self.gone

    def miscounted(self) -> dict[Path, Amount]:
        """Return by how much more is counted in each place than its disk holds."""
        found = {}
        for path, place in self.places.items():
            assert self.watcher.code(f"CWD /{'/'.join(path)}") == 250
            size, files = map(int, re.findall(r": (\d+) of", self.watcher.command("SITE QUOTA")))
            found[path] = Amount(size, files) - sum(DirectoryMeter().amounts(str(place), ()), Amount())
        return found


def test_sessions_agree_with_a_model(make_daemon: Callable[..., Daemon]) -> None:
    """Whatever two sessions of a user do to a tree, disk and listings agree with the replies."""
    Sessions.daemon = make_daemon(PLAIN)
    search(Sessions, int(200 * MINUTES) or 40)


def test_sessions_in_folders_agree_with_a_model(make_daemon: Callable[..., Daemon], tmp_path: DiskPath) -> None:
    """The same for two users who share a home and folders, one of these in another one; and all is counted exactly."""
    paths: dict[Path, str] = {("a",): "outer", ("a", "c d", "b"): "inner", ("ünï", "'"): "other"}
    SessionsWithFolders.folders = {path: tmp_path / name for path, name in paths.items()}
    for place in SessionsWithFolders.folders.values():
        place.mkdir()
    quota = {"bytes": 10**9, "files": 10**6}
    folders = {
        "/" + "/".join(path): {"path": str(place), "quota": quota}
        for path, place in SessionsWithFolders.folders.items()
    }
    daemon = make_daemon(PLAIN, start=False)
    user = {"home": str(daemon.home()), "quota": quota, "folders": folders}
    daemon.users = {"alice": user, "bob": user}
    daemon.write()
    SessionsWithFolders.daemon = daemon.start()
    search(SessionsWithFolders, int(200 * MINUTES) or 40)


def search(machine: type[Sessions], examples: int) -> None:
    """Look for a sequence of commands that breaks a promise."""
    while examples > 0:  # hypothesis keeps a quarter of a megabyte of each
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=min(examples, ROUND),
                stateful_step_count=40,
                suppress_health_check=list(HealthCheck),
            ),
        )
        examples -= ROUND
