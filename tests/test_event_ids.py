"""One id for one event: webhooks, the audit file, the admin API and `ftpsd events` name it alike."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ftpsd as package
from ftpsd.events.durable_ids import CAPACITY, DurableIds
from tests.daemon import PATIENCE, Daemon, ftpsd, program
from tests.disks import FaultyDisk
from tests.ftpclient import FtpClient, secured
from tests.hostile import wait_until
from tests.outbox import JournalNow, settings, with_state
from tests.receiver import Deliverer, Receiver

Make = Callable[..., Daemon]

#: The changes of the session below.
CHANGES = {
    ("upload", "/a"),
    ("upload", "/shared/b"),
    ("delete", "/a"),
    ("rename", "/shared/b"),
    ("download", "/shared/c"),
    ("mkdir", "/d"),
}


@contextmanager
def followed(daemon: Daemon) -> Iterator[list[dict[str, Any]]]:
    """The records that `ftpsd events --json` prints."""
    found: list[dict[str, Any]] = []
    command = ftpsd("events", "--json", "-c", str(daemon.config))
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    with program(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        output = process.stdout
        assert output is not None

        def read() -> None:
            for line in output:
                found.append(json.loads(line))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        with secured(daemon, "bob") as client:

            def is_seen() -> bool:
                client.expect(257, "PWD")
                with secured(daemon, "bob"):
                    return bool(found)

            wait_until(is_seen, "the first event")
        yield found
        process.kill()
        reader.join(PATIENCE)


def change_files(client: FtpClient) -> None:
    """Make the changes, and some for which there is no webhook."""
    assert client.upload("STOR a", b"content").startswith("226 ")
    assert client.upload("APPE a", b", more").startswith("226 ")
    assert client.upload("STOR shared/b", b"content").startswith("226 ")
    assert client.upload("STOR no.txt", b"content").startswith("226 ")
    client.expect(550, "DELE nothing")
    client.expect(250, "DELE a")
    client.expect(350, "RNFR shared/b")
    client.expect(250, "RNTO shared/c")
    assert client.download("RETR shared/c") == b"content"
    client.expect(257, "MKD d")


def ids(records: list[dict[str, Any]]) -> dict[tuple[str, ...], str]:
    """The ids of the records of files, by what tells these events apart."""
    return {
        (each["event"], each["path"], str(each.get("append", ""))): each["id"] for each in records if "path" in each
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_an_event_has_one_id_everywhere(make_daemon: Make, tmp_path: Path, workers: int) -> None:
    """A webhook, the audit file and `ftpsd events` have one id for one change, whatever process serves the session."""
    shared = tmp_path / "shared"
    shared.mkdir()
    audit = tmp_path / "audit"
    with tempfile.TemporaryDirectory(prefix="ftpsd-") as short, Receiver() as receiver:
        rule = {
            "on": ["upload", "delete", "rename", "download", "mkdir"],
            "paths": ["/a", "/d", "/shared/*"],
            "webhook": {"url": receiver.url.replace("localhost", "127.0.0.1")},
        }
        daemon = make_daemon(
            {
                **settings(rule, audit=str(audit)),
                **with_state(tmp_path / "state"),
                "workers": workers,
                "admin": {"socket": str(Path(short) / "admin.sock")},
            },
            users={"alice": {"folders": {"/shared": {"path": str(shared)}}}, "bob": {}},
        )
        with followed(daemon) as seen, Deliverer(daemon.config):
            with secured(daemon) as client:
                change_files(client)
            wait_until(lambda: len(receiver.accepted()) >= 7, "seven events")
            wait_until(lambda: len(ids(seen)) >= 8, "eight changes of files")
        daemon.stop()
    delivered = ids(receiver.accepted())
    assert {key[:2] for key in delivered} == CHANGES
    written = ids([json.loads(line) for line in audit.read_text().splitlines()])
    for key, identity in delivered.items():
        assert written[key] == ids(seen)[key] == identity, key
    assert len(set(written.values())) == len(written) == 8


def test_the_audit_file_has_the_record_of_the_webhook(make_daemon: Make, tmp_path: Path) -> None:
    """With one process, a change that a rule wants has one record: in the audit file and for the target, but for size.

    Of a text, the audit file counts the bytes that were sent, with two for each line end.
    """
    audit = tmp_path / "audit"
    with Receiver() as receiver:
        webhook = {"url": receiver.url.replace("localhost", "127.0.0.1")}
        rule = {"on": ["upload", "delete", "rename"], "webhook": webhook}
        state = with_state(tmp_path / "state")
        daemon = make_daemon({**settings(rule, audit=str(audit)), **state, "workers": 1})
        with Deliverer(daemon.config), secured(daemon) as client:
            assert client.upload('STOR é "x', b"content").startswith("226 ")
            assert client.upload(b"APPE \xe9", b"more").startswith("226 ")
            client.expect(350, 'RNFR é "x')
            client.expect(250, "RNTO b")
            client.expect(250, "DELE b")
            client.expect(200, "TYPE A")
            assert client.upload("STOR text", b"a\r\nb\r\n").startswith("226 ")
            wait_until(lambda: len(receiver.accepted()) == 5, "five events")
        daemon.stop()
    written = {each["id"]: each for each in map(json.loads, audit.read_text().splitlines())}
    for record in receiver.accepted():
        size = record.pop("size", None)
        assert (size is None) == (record["event"] != "upload")
        of_audit = written[record["id"]]
        if record["path"] == "/text":
            assert (record["bytes"], of_audit["bytes"]) == (4, 6)
            record["bytes"], record["time"], record["seconds"] = 6, of_audit["time"], of_audit["seconds"]
        assert of_audit == record


def test_a_rename_that_ends_after_its_command(make_daemon: Make, tmp_path: Path) -> None:
    """A rename that was made when its client had got 451 is not taken for another one of the same file."""
    audit = tmp_path / "audit"
    rule = {"on": ["rename"], "paths": ["/b"]}
    more = {**with_state(tmp_path / "state"), "timeouts": {"stalled": 2}, "workers": 1}
    daemon = make_daemon({**settings(rule, audit=str(audit)), **more}, start=False)
    disk = FaultyDisk(daemon.home())
    (disk.backing / "a").touch()
    daemon.start(disk.prefix)
    with secured(daemon) as client, secured(daemon) as other:
        client.expect(350, "RNFR a")
        disk.fail(RENAME="STALL")
        client.expect(451, "RNTO b")
        disk.work()
        wait_until(lambda: JournalNow(daemon).made, "the rename is made")
        other.expect(350, "RNFR b")
        other.expect(250, "RNTO a")
        client.expect(350, "RNFR a")
        client.expect(250, "RNTO c")
    daemon.stop()
    written = [each for each in map(json.loads, audit.read_text().splitlines()) if each["event"] == "rename"]
    assert [(each["path"], each["new_path"]) for each in written] == [("/b", "/a"), ("/a", "/c")]
    assert len({each["id"] for each in (*written, *JournalNow(daemon).made)}) == 3


def test_an_id_is_for_one_change_only() -> None:
    """An id is used once, for the change that has it, and nothing is kept of sessions that have ended."""
    known = DurableIds()
    known.put(1, "upload", "/a", "7-1", "{}")
    assert known.take(2, "upload", "/a") == ""
    assert known.take(1, "upload", "/a") == "7-1"
    assert known.take(1, "upload", "/a") == ""
    assert known.taken == ("7-1", "{}")
    known.put(1, "upload", "/a", "7-2", "{}")
    assert known.take(1, "delete", "/a") == known.take(1, "upload", "/a") == ""
    known.put(1, "upload", "/a", "7-3", "{}")
    known.forget(1)
    assert known.take(1, "upload", "/a") == ""
    for session in range(CAPACITY + 5):
        known.put(session, "upload", "/a", f"7-{session}", "{}")
    assert known.take(4, "upload", "/a") == "" and known.take(5, "upload", "/a") == "7-5"
