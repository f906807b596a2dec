"""Users' files in a daemon with three workers, as clients see them: exact quotas, whole files, uploads that can be resumed."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PLAIN
from tests.daemon import Daemon, merge
from tests.ftpclient import FtpClient
from tests.hostile import BYTES, open_transfer, plain_login, wait_until
from tests.outbox import JournalNow, settings, with_state
from tests.test_processes import worker_of
from tests.test_quota import counted, limited, on_disk, try_upload

WORKERS = 3
SIZE = 300_000

#: Nine different contents.
CONTENTS = [bytes([65 + number]) * SIZE for number in range(9)]

Make = Callable[..., Daemon]


@pytest.fixture
def three(make_daemon: Make) -> Make:
    """Makes daemons with three workers, which permit plain text."""

    def make(users: dict[str, Any], more: dict[str, Any] | None = None) -> Daemon:
        return make_daemon(merge({**PLAIN, "workers": WORKERS}, more or {}), users)

    return make


def sessions(stack: ExitStack, daemon: Daemon, count: int = 9) -> list[FtpClient]:
    """Sessions in all workers: connections go to the worker with the fewest."""
    clients = [stack.enter_context(plain_login(daemon)) for _ in range(count)]
    assert len({worker_of(daemon, client) for client in clients}) == WORKERS
    return clients


def at_once(clients: list[FtpClient], work: Callable[[int, FtpClient], None]) -> None:
    """Let all clients work at the same time."""
    failed: list[BaseException] = []

    def run(number: int, client: FtpClient) -> None:
        try:
            work(number, client)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=each) for each in enumerate(clients)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed, failed


def test_a_quota_is_exact(three: Make) -> None:
    """Of 45 uploads at once in three workers exactly as many succeed as there is room for, by bytes and by files."""
    daemon = three({"alice": limited("100000", 100), "bob": limited("10M", 7)})
    with ExitStack() as stack:
        replies: list[str] = []

        def upload(number: int, client: FtpClient) -> None:
            replies.extend(try_upload(client, f"STOR {number}-{each}", bytes(5000)) for each in range(5))

        clients = sessions(stack, daemon)
        at_once(clients, upload)
        assert sorted(reply[:3] for reply in replies) == ["226"] * 20 + ["552"] * 25
        assert {counted(client) for client in clients} == {(100_000, 20)} == {on_disk(daemon.home())}
        replies.clear()
        at_once([stack.enter_context(plain_login(daemon, "bob")) for _ in range(9)], upload)
        assert sorted(reply[:3] for reply in replies) == ["226"] * 7 + ["552"] * 38


def sent(daemon: Daemon, client: FtpClient, line: str, size: int) -> socket.socket:
    """Begin an upload, and send a part of it, which arrives."""
    running = open_transfer(client, line)
    running.sendall((BYTES * (SIZE // len(BYTES) + 1))[:size])
    wait_until(lambda: f" {size} bytes " in client.command("STAT"), "it has arrived")
    return running


def test_the_uploads_of_a_killed_worker(three: Make) -> None:
    """Uploads of a killed worker can be resumed in another, and are counted again, also for sessions that stayed."""
    content = (BYTES * (SIZE // len(BYTES) + 1))[:SIZE]
    daemon = three({"alice": limited("10M", 100)})
    with ExitStack() as stack:
        clients = sessions(stack, daemon)
        victim = worker_of(daemon, clients[0])
        others = [client for client in clients if worker_of(daemon, client) != victim]
        assert others[0].upload("STOR old", bytes(1000)).startswith("226 ")
        running = sent(daemon, clients[0], "STOR f", 200_000)
        staying = sent(daemon, others[1], "STOR g", 100_000)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: others[0].command("SIZE f") == "213 200000", "its part file can be resumed")
        wait_until(lambda: counted(others[0])[0] == on_disk(daemon.home())[0], "it is counted again")
        running.close()
        others[0].expect(350, "REST 200000")
        assert others[0].upload("STOR f", content[200_000:]).startswith("226 ")
        staying.sendall(content[100_000:])
        staying.close()
        assert others[1].reply().startswith("226 ")
        assert [(daemon.home() / name).read_bytes() for name in "fg"] == [content] * 2
        assert counted(others[0]) == (2 * SIZE + 1000, 3) == on_disk(daemon.home())


def has_ended(pid: int) -> bool:
    """Return whether a process has ended with all of its threads."""
    try:
        return os.listdir(f"/proc/{pid}/task") == [str(pid)] and ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def test_what_a_killed_worker_was_charged_for(three: Make) -> None:
    """Nothing counts twice before the supervisor knows that a worker was killed: what it received can be used at once.

    Here the supervisor knows it late. An upload is resumed, another one is begun anew, and a third one is deleted.
    """
    daemon = three({"alice": limited(2 * SIZE, 100)})
    with ExitStack() as stack:
        clients = sessions(stack, daemon)
        victim = worker_of(daemon, clients[0])
        cut = [client for client in clients if worker_of(daemon, client) == victim]
        other = next(client for client in clients if worker_of(daemon, client) != victim)
        for client, name in zip(cut, "abc", strict=True):
            stack.enter_context(sent(daemon, client, f"STOR {name}", 150_000))
        os.kill(daemon.pid, signal.SIGSTOP)
        stack.callback(os.kill, daemon.pid, signal.SIGCONT)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: other.command("SIZE a") == "213 150000", "it can be resumed")
        wait_until(lambda: has_ended(victim), "it has released its locks")
        assert counted(other) == (450_000, 3) == on_disk(daemon.home())
        other.expect(250, "DELE c")
        assert counted(other) == (300_000, 2) == on_disk(daemon.home())
        other.expect(350, "REST 150000")
        assert try_upload(other, "STOR a", bytes(150_000)).startswith("226 ")
        assert counted(other) == (450_000, 2) == on_disk(daemon.home())
        assert try_upload(other, "STOR b", bytes(300_000)).startswith("226 ")
        assert counted(other) == (600_000, 2) == on_disk(daemon.home())
        os.kill(daemon.pid, signal.SIGCONT)
        wait_until(lambda: f"(process {victim}) was killed" in daemon.log, "the supervisor knows it")
        wait_until(lambda: "holds 600000 bytes in 2 files" in daemon.log, "it is counted again")
        assert counted(other) == (600_000, 2)


def test_only_whole_files_are_published(three: Make) -> None:
    """While sessions of three workers upload, rename and delete the same name, everything under it is one whole file."""
    daemon = three({"alice": {}})
    with ExitStack() as stack:
        clients = sessions(stack, daemon)
        seen: list[bytes] = []

        def work(number: int, client: FtpClient) -> None:
            for _ in range(6):
                if number < 5:
                    assert try_upload(client, "STOR f", CONTENTS[number])[:3] in ("226", "450")
                elif number == 5:
                    client.command("DELE f")
                elif number == 6 and client.command("RNFR f").startswith("350"):
                    client.command("RNTO g")
                else:
                    seen.append(retrieved(client, "f"))

        at_once(clients, work)
        seen += [path.read_bytes() for path in daemon.home().iterdir() if not path.name.startswith(".")]
        assert {data for data in seen if data} <= {*CONTENTS}
        assert not [path for path in daemon.home().iterdir() if path.name.startswith(".")]


def retrieved(client: FtpClient, name: str) -> bytes:
    """Return a file; nothing if there is none."""
    connection = client.connect_data()
    with connection:
        if not client.command(f"RETR {name}").startswith("150"):
            return b""
        data = b"".join(iter(lambda: connection.recv(65536), b""))
    assert client.reply().startswith("226 ")
    return data


def test_the_events_of_a_killed_worker(three: Make, tmp_path: Any) -> None:
    """What all workers write has identities of its own, and what a killed one has begun is decided at once."""
    rule = {"on": ["upload", "delete", "login"]}
    daemon = three({"alice": {}}, merge(settings(rule), with_state(tmp_path / "state")))
    with ExitStack() as stack:
        clients = sessions(stack, daemon)
        at_once(clients, lambda number, client: client.upload(f"STOR {number}", b"x").startswith("226 ") or None)
        victim = worker_of(daemon, clients[0])
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(JournalNow(daemon).locks) == WORKERS, "the run of the killed one was decided")
        journal = JournalNow(daemon)
        assert sorted(each["path"] for each in journal.made) == [f"/{number}" for number in range(9)]
        assert not journal.undecided
        assert len([each for each in journal.others if each["event"] == "login"]) == 9
