"""Random commands of one session in a store, against a model: a mapping of paths to contents."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.daemon import Daemon
from tests.ftpclient import FtpClient, secured
from tests.fuzz import MINUTES
from tests.hostile import cut, open_transfer
from tests.s3 import Bucket
from tests.store_daemon import HOME, LARGE, MIB, store_daemon

Path = tuple[str, ...]

NAMES = st.sampled_from(["a", "b", "c d", "ü", "日本", "%s", "a+b", "x;y=z", "*", "é" * 60])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
SIZES = st.sampled_from([0, 1, 1000, 5 * MIB, 5 * MIB + 1, 11 * MIB])


class StoreSession(RuleBasedStateMachine):
    """One user with a quota that nothing reaches, whose count must be right."""

    daemon: Daemon
    bucket: Bucket

    def __init__(self) -> None:
        super().__init__()
        for key in self.bucket.all_keys():
            self.bucket.client.delete_object(Bucket=self.bucket.name, Key=key)
        self.bucket.abort_all()
        self.daemon.reload()
        self.files: dict[Path, bytes] = {}
        self.directories: set[Path] = {()}
        self.client: FtpClient = secured(self.daemon)

    def teardown(self) -> None:
        """End the session."""
        self.client.command("QUIT")
        self.client.socket.close()
        assert "Traceback" not in self.daemon.log

    def expect(self, good: bool, line: str) -> str:
        """Send a command, and compare whether it is done."""
        reply = self.client.command(line)
        assert (reply[0] == "2") is good, f"{line}: {reply}; {sorted(self.files)} {sorted(self.directories)}"
        return reply

    def _may_store(self, path: Path) -> bool:
        return path[:-1] in self.directories and path not in self.directories

    @rule(path=PATHS, size=SIZES, how=st.sampled_from(["STOR", "APPE"]))
    def upload(self, path: Path, size: int, how: str) -> None:
        """Store a file, or append to one."""
        data, name = LARGE[:size], "/" + "/".join(path)
        plain = self.client.connect_data()
        reply = self.client.command(f"{how} {name}")
        if reply.startswith("150"):
            connection = self.client.secure_data(plain)
            connection.sendall(data)
            connection.unwrap().close()
            reply = self.client.reply()
        plain.close()
        assert reply.startswith("226") is self._may_store(path), f"{how} {name}: {reply}"
        if reply.startswith("226"):
            self.files[path] = (self.files.get(path, b"") if how == "APPE" else b"") + data

    @rule(path=PATHS, more=st.booleans())
    def cut_and_resume(self, path: Path, more: bool) -> None:
        """Cut an upload to a new name, then resume it or delete what is left."""
        if not self._may_store(path) or path in self.files:
            return
        name = "/" + "/".join(path)
        data = open_transfer(self.client, f"STOR {name}")
        data.sendall(LARGE[: 11 * MIB])
        cut(data)
        assert self.client.reply()[0] == "4"
        reply = self.client.command(f"SIZE {name}")
        if reply.startswith("550"):
            return
        size = int(reply.split()[1])
        if more:
            self.client.expect(350, f"REST {size}")
            assert self.client.upload(f"STOR {name}", LARGE[size : 12 * MIB]).startswith("226")
            self.files[path] = LARGE[: 12 * MIB]
        else:
            self.client.expect(250, f"DELE {name}")

    @rule(path=PATHS)
    def mkd(self, path: Path) -> None:
        """Make a directory."""
        good = self._may_store(path) and path not in self.files
        self.expect(good, f"MKD /{'/'.join(path)}")
        if good:
            self.directories.add(path)

    @rule(path=PATHS)
    def rmd(self, path: Path) -> None:
        """Remove an empty directory."""
        full = any(each[: len(path)] == path != each for each in {*self.files, *self.directories})
        good = path in self.directories and not full
        self.expect(good, f"RMD /{'/'.join(path)}")
        if good:
            self.directories.discard(path)

    @rule(path=PATHS)
    def dele(self, path: Path) -> None:
        """Delete a file."""
        self.expect(path in self.files, f"DELE /{'/'.join(path)}")
        self.files.pop(path, None)

    @rule(old=PATHS, new=PATHS)
    def rename(self, old: Path, new: Path) -> None:
        """Rename a file."""
        if old not in self.files:
            return
        self.client.expect(350, f"RNFR /{'/'.join(old)}")
        good = self._may_store(new)
        self.expect(good, f"RNTO /{'/'.join(new)}")
        if good:
            self.files[new] = self.files.pop(old)

    @rule(path=PATHS, offset=st.sampled_from([0, 1, 5 * MIB]))
    def retr(self, path: Path, offset: int) -> None:
        """Read a file from an offset."""
        content = self.files.get(path)
        if content is None or offset > len(content):
            return
        self.client.expect(350, f"REST {offset}")
        assert self.client.download(f"RETR /{'/'.join(path)}") == content[offset:]

    @invariant()
    def the_store_agrees(self) -> None:
        """Each object is one of the model, whole; the listing of the root is right."""
        found = {tuple(key.split("/")[1:]): data for key, data in self.bucket.contents().items()}
        assert found == self.files
        listed = {line.decode() for line in self.client.download("NLST").splitlines()}
        assert listed == {each[0] for each in {*self.files, *self.directories} if len(each) == 1}


def test_a_session_in_a_store_agrees_with_a_model(make_daemon: Callable[..., Daemon], bucket: Bucket) -> None:
    """Whatever a session does, the store has the files of the model, and replies say what was done."""
    users = {"alice": {"home": HOME, "quota": {"bytes": "10G", "files": 10_000}}}
    StoreSession.daemon = store_daemon(make_daemon, bucket, users, part_size="5M", parallel=2, memory="40M")
    StoreSession.bucket = bucket
    examples = int(MINUTES * 20) if MINUTES else 3
    suppressed = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        StoreSession,
        settings=settings(
            max_examples=examples, stateful_step_count=12, deadline=None, suppress_health_check=suppressed
        ),
    )
