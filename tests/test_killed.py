"""The daemon is killed at any moment of its uploads: each file is whole, the old one or the new one."""

from __future__ import annotations

import hashlib
import random
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ftpsd.storage.local.part_files import PRIVATE, part_name
from tests.daemon import PATIENCE, Daemon
from tests.ftpclient import secured
from tests.hostile import open_transfer, wait_until, withstands
from tests.test_publishing import finish

ROUNDS = 24
SIZE = 2_000_000

#: What happens in each round at once: the user and the command. bob may not overwrite.
UPLOADS = {
    "replaced": ("alice", "STOR replaced"),
    "grown": ("alice", "APPE grown"),
    "fresh": ("bob", "STOR fresh"),
}


def digest(content: bytes | None) -> str:
    """Return a digest, so that a failure fits on a line."""
    if content is None:
        return "none"
    return f"{len(content)} bytes, {hashlib.sha256(content).hexdigest()[:16]}"


class Uploader(threading.Thread):
    """One upload, whose server may disappear at any moment."""

    def __init__(self, daemon: Daemon, user: str, line: str, content: bytes) -> None:
        super().__init__()
        self._daemon, self._user, self._line, self._content = daemon, user, line, content
        self.started = threading.Event()
        self.reply = ""
        self.start()

    def run(self) -> None:
        """Send everything, as long as the server is there."""
        try:
            with secured(self._daemon, self._user) as client:
                data = open_transfer(client, self._line)
                assert isinstance(data, ssl.SSLSocket)
                self.started.set()
                with data:
                    data.sendall(self._content)
                    finish(data)
                self.reply = client.reply()
        except OSError:
            pass  # killed
        finally:
            self.started.set()


def expected(name: str, old: bytes | None, content: bytes) -> bytes:
    """Return the content of the file after a complete upload."""
    return (old or b"") + content if name == "grown" else content


def read(path: Path) -> bytes | None:
    """Return the content of the file, or None if there is none."""
    return path.read_bytes() if path.exists() else None


def parts(daemon: Daemon) -> set[Path]:
    """Return all part files."""
    return {path for user in daemon.users for path in daemon.home(user).glob(PRIVATE + "*")}


def go_on(daemon: Daemon, user: str, name: str, whole: bytes) -> None:
    """Resume an upload if it has left a part file."""
    left = daemon.home(user) / part_name(name)
    if not left.exists():
        return
    size = left.stat().st_size
    assert left.read_bytes() == whole[:size]
    with secured(daemon, user) as client:
        client.expect(350, f"REST {size}")
        assert client.upload(f"STOR {name}", whole[size:]).startswith("226 ")
    assert digest((daemon.home(user) / name).read_bytes()) == digest(whole)


def test_killed_during_uploads(make_daemon: Callable[..., Daemon]) -> None:
    """After SIGKILL at a random moment every file is the old one or the new one, by its SHA-256.

    It is the new one if 226 was sent. The next start removes part files that cannot be resumed, and the others can be
    resumed.
    """
    chance, window = random.Random(7), 0.06
    daemon = make_daemon(users={"alice": {}, "bob": {"permissions": ["upload", "list"]}})
    files = {name: daemon.home(user) / name for name, (user, _) in UPLOADS.items()}
    usual = {daemon.home(user) / part_name(name) for name, (user, _) in UPLOADS.items()}
    files["replaced"].write_bytes(b"the first")
    files["grown"].write_bytes(b"the first")
    for _ in range(ROUNDS):
        files["fresh"].unlink(missing_ok=True)
        files["grown"].write_bytes(files["grown"].read_bytes()[-SIZE:])
        old = {name: read(path) for name, path in files.items()}
        content = {name: chance.randbytes(SIZE) for name in files}
        uploads = {name: Uploader(daemon, *UPLOADS[name], content[name]) for name in files}
        for upload in uploads.values():
            upload.started.wait(PATIENCE)
        time.sleep(chance.uniform(0, window))
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait()
        complete = 0
        for name, upload in uploads.items():
            upload.join(PATIENCE)
            new, now = expected(name, old[name], content[name]), read(files[name])
            whole = [new] if upload.reply.startswith("226") else [new, old[name]]
            assert digest(now) in map(digest, whole), (name, upload.reply)
            complete += now == new
        # Half of the kills shall come too late, however fast the machine is.
        window *= 1.25 if complete == 0 else 0.8 if complete == len(uploads) else 1
        daemon.log_file.write_text("")
        daemon.start()
        with withstands(daemon):
            wait_until(lambda: parts(daemon) <= usual, "what nobody can go on with is gone")
            for name in ("replaced", "fresh"):
                go_on(daemon, UPLOADS[name][0], name, content[name])
            with secured(daemon) as client:
                assert client.upload("APPE grown", b"once more").startswith("226 ")
