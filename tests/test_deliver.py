"""`ftpsd deliver`: each event reaches its targets at least once, in the order of its path, whatever they do."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftpsd.cli.main import main
from ftpsd.deliver.queue import Queue
from ftpsd.events.durable_ids import DurableIds
from ftpsd.outbox.evidence import Home, moved
from ftpsd.outbox.journal import Journal
from ftpsd.outbox.segments import add_paths, segments, to_line
from tests.daemon import PATIENCE, Daemon
from tests.ftpclient import secured
from tests.hostile import wait_until
from tests.outbox import settings, with_state
from tests.receiver import Deliverer, Receiver, Request

Make = Callable[..., Daemon]

SECRET = b"correct horse battery staple"


class Outbox:
    """A configuration without a daemon, and the journal of one: the test writes the events."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "ftpsd.yaml"
        self.events = directory / "state" / "events"
        self.events.mkdir(parents=True)
        self.journal = Journal(DurableIds())
        self.journal.configure(1 << 30, fsync=False)
        self.journal.start(self.events)

    def configure(self, *rules: dict[str, Any], **events: Any) -> Path:
        """Write the configuration."""
        base = {"listen": [{"address": "127.0.0.1", "port": 2121}], "tls": {"certificate": "none.pem"}}
        state = {"state": {"directory": str(self.directory / "state")}}
        self.config.write_text(yaml.safe_dump({**base, **state, **settings(*rules, **events)}))
        return self.config

    def add(self, path: str, name: str = "upload", user: str = "alice", **fields: Any) -> str:
        """Write an event; return its identity."""
        identity = self.journal.identity()
        record = {
            "id": identity,
            "event": name,
            "time": "2026-11-26T02:00:00.000Z",
            "user": user,
            "path": path,
            **fields,
        }
        evidence = moved(Home("/srv", 1), 1, "part", "/srv/" + path)
        entry = add_paths({"intent": identity, "record": record, "evidence": evidence}, [path])
        self.journal.add_intent(identity, to_line(entry))
        self.journal.decide(identity, made=True)
        return identity

    def command(self, *arguments: str) -> tuple[int, str]:
        """Run `ftpsd events` with this configuration; return its exit status and its output."""
        with redirect_stdout(io.StringIO()) as output, redirect_stderr(output):
            status = main(["events", "-c", str(self.config), *arguments])
        return status, output.getvalue()

    def waiting(self) -> int:
        """How many deliveries wait."""
        queue = Queue(self.events)
        try:
            return queue.counts()[0]
        finally:
            queue.close()


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    """A journal without a daemon."""
    return Outbox(tmp_path)


def test_an_upload_reaches_the_webhook(make_daemon: Make, tmp_path: Path, certificate: Path) -> None:
    """Each upload is posted over verified TLS, once and signed; what was not published, or is for no rule, is not."""
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET + b"\n")
    secret.chmod(0o600)
    with Receiver(certificate) as receiver:
        webhook = {"url": receiver.url, "secret_file": str(secret), "ca_file": str(certificate / "certificate.pem")}
        rule = {"on": ["upload", "rename", "login"], "users": ["alice"], "webhook": webhook}
        daemon = make_daemon({**settings(rule), **with_state(tmp_path / "state")})
        with Deliverer(daemon.config) as deliverer:
            with secured(daemon) as client, secured(daemon, "bob") as other:
                for turn in range(5):
                    assert client.upload(f"STOR a{turn}", b"x" * turn).startswith("226 ")
                client.expect(350, "RNFR a4")
                client.expect(250, "RNTO b")
                assert other.upload("STOR other", b"x").startswith("226 ")
                client.send("STOR cut")
            wait_until(lambda: len(receiver.accepted()) >= 7, "seven events")
            daemon.stop()
            events = tmp_path / "state" / "events"
            wait_until(lambda: not segments(events), "the journal is removed")
            assert deliverer.stop() == 0, deliverer.log
    records = receiver.accepted()
    assert len(records) == len({record["id"] for record in records}) == 7
    by_path = {record.get("path"): record for record in records if record["event"] == "upload"}
    assert {path: record["bytes"] for path, record in by_path.items()} == {f"/a{turn}": turn for turn in range(5)}
    assert {*by_path["/a1"]} >= {"id", "event", "time", "user", "address", "session", "path", "bytes", "size"}
    assert [record["new_path"] for record in records if record["event"] == "rename"] == ["/b"]
    for request in receiver.requests:
        expected = hmac.new(SECRET, request.body, hashlib.sha256).hexdigest()
        assert request.headers["X-Ftpsd-Signature"] == f"sha256={expected}"
        assert request.headers["X-Ftpsd-Id"] == request.record["id"]
        assert request.headers["Content-Type"] == "application/json"


def test_a_receiver_that_misbehaves(outbox: Outbox) -> None:
    """A receiver that fails, hangs, closes, redirects or floods gets the event again; the order of a path is kept."""
    seen: dict[str, int] = defaultdict(int)

    def flood(request: Request) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000)  # the status counts, the rest is cut

    def behave(request: Request) -> int | None:
        path = request.record["path"]
        with receiver.lock:
            seen[path] += 1
            turn = seen[path]
        if not path.startswith("/bad") or turn > 1:
            return 200
        what = path.removeprefix("/bad/")
        if what == "hang":
            time.sleep(3)
        if what in ("hang", "close"):
            return None
        if what == "flood":
            flood(request)
            request.note(200)
            return None
        return int(what)

    with Receiver(behaviour=behave) as receiver:
        outbox.configure({"on": ["upload"], "webhook": {"url": receiver.url}}, timeout=1)
        bad = [f"/bad/{what}" for what in ("500", "302", "404", "hang", "close", "flood")]
        order = {path: [outbox.add(path) for _ in range(3)] for path in (*bad, "/good")}
        with Deliverer(outbox.config):
            wait_until(lambda: len(receiver.accepted()) == 21, "all of them")
            wait_until(lambda: outbox.waiting() == 0, "nothing waits")
    got: dict[str, list[str]] = defaultdict(list)
    for record in receiver.accepted():
        got[record["path"]].append(record["id"])
    assert got == order


def test_killed_between_the_post_and_its_record(outbox: Outbox) -> None:
    """A deliverer that is killed at any instant delivers each event at least once, in the order of its path."""
    chance = random.Random(5)
    with Receiver() as receiver:
        outbox.configure({"on": ["upload"], "webhook": {"url": receiver.url}})
        order: dict[str, list[str]] = defaultdict(list)
        for number in range(120):
            path = f"/{number % 6}"
            order[path].append(outbox.add(path))
        for turn in range(4):
            with Deliverer(outbox.config) as deliverer:
                receiver.behaviour = partial(_answer, deliverer.kill if turn == 0 else lambda: 0)
                wait_until(partial(_has_more, receiver, len(receiver.requests)), "an event")
                time.sleep(chance.uniform(0, 0.05))
                deliverer.kill()
        receiver.behaviour = partial(_answer, lambda: 0)
        with Deliverer(outbox.config):
            wait_until(lambda: outbox.waiting() == 0 and len(receiver.accepted()) >= 120, "all of them")
    got: dict[str, list[str]] = defaultdict(list)
    for record in receiver.accepted():
        got[record["path"]].append(record["id"])
    for path, identities in order.items():
        assert list(dict.fromkeys(got[path])) == identities, path
        positions = [identities.index(each) for each in got[path]]
        assert all(later >= earlier - 1 for earlier, later in pairwise(positions)), positions
    assert len(receiver.accepted()) > 120


def _answer(strike: Callable[[], int], request: Request) -> int:
    """Accept an event. What strikes comes after it has arrived, and before it is answered."""
    strike()
    return 200


def _has_more(receiver: Receiver, before: int) -> bool:
    return len(receiver.requests) > before


def test_only_a_verified_server_gets_events(outbox: Outbox, certificate: Path) -> None:
    """A server whose certificate is of an unknown authority, or for another name, gets nothing."""
    with Receiver(certificate) as receiver:
        other = receiver.url.replace("localhost", "127.0.0.2")
        rules = [
            {"on": ["upload"], "webhook": {"url": receiver.url}},
            {"on": ["upload"], "webhook": {"url": other, "ca_file": str(certificate / "certificate.pem")}},
        ]
        outbox.configure(*rules)
        outbox.add("/a")
        with Deliverer(outbox.config):
            wait_until(lambda: outbox.waiting() == 2 and _attempts(outbox) >= 2, "both have failed")
        assert not receiver.requests


def _attempts(outbox: Outbox) -> int:
    queue = Queue(outbox.events)
    try:
        return sum(row[0] for row in queue._state.execute("SELECT attempts FROM deliveries"))
    finally:
        queue.close()


def test_a_program_gets_events_and_nothing_else(outbox: Outbox, tmp_path: Path) -> None:
    """A program gets the event in its environment and on standard input, whatever the name; no shell, no descriptor."""
    script = tmp_path / "program"
    results = tmp_path / "results"
    results.mkdir()
    script.write_text(
        "#!/usr/bin/env python3\n"
        "import json, os, sys\n"
        "data = sys.stdin.read()\n"
        "fds = sorted(os.listdir('/proc/self/fd'), key=int)\n"
        "found = {'argv': sys.argv[1:], 'env': dict(os.environ), 'json': data, 'fds': fds, 'cwd': os.getcwd()}\n"
        f"open(r'{results}/' + os.environ['FTPSD_ID'], 'w').write(json.dumps(found))\n"
        "print('x' * 1000000)\n"
    )
    script.chmod(0o700)
    names = ["/-rf", "/a\nb", "/'; touch x; '", '/"$(touch x)`touch x`', "/\udcff\udcfe", "/ä €", "/" + "n" * 250]
    outbox.configure({"on": ["upload"], "exec": [str(script), "--flag", "$HOME *"]})
    identities = {outbox.add(name, bytes=7, append=False): name for name in names}
    with Deliverer(outbox.config):
        wait_until(lambda: len(list(results.iterdir())) == len(names) and outbox.waiting() == 0, "all of them")
    for identity, name in identities.items():
        found = json.loads((results / identity).read_text())
        assert found["argv"] == ["--flag", "$HOME *"]
        assert found["env"]["FTPSD_PATH"] == name
        assert found["env"]["FTPSD_FILE"] == "/srv/" + name
        assert found["env"]["FTPSD_EVENT"] == "upload" and found["env"]["FTPSD_USER"] == "alice"
        assert found["env"]["FTPSD_BYTES"] == "7" and found["env"]["FTPSD_APPEND"] == "false"
        assert not {each for each in found["env"] if not each.startswith(("FTPSD_", "PATH", "LANG", "LC_"))}
        assert json.loads(found["json"])["id"] == identity
        assert found["fds"] == ["0", "1", "2", "3"]  # the last one is the directory of the list itself
        assert found["cwd"] == "/"


def test_programs_with_the_same_words(outbox: Outbox, tmp_path: Path) -> None:
    """Two rules whose programs differ only in where an argument ends are two targets: each program runs."""
    script, results = tmp_path / "program", tmp_path / "results"
    script.write_text(f"#!/bin/sh\necho $# >>{results}\n")
    script.chmod(0o700)
    rules = [{"on": ["upload"], "exec": [str(script), *arguments]} for arguments in (["a b"], ["a", "b"])]
    outbox.configure(*rules)
    outbox.add("/a")
    with Deliverer(outbox.config):
        wait_until(lambda: results.exists() and outbox.waiting() == 0, "both of them")
    assert sorted(results.read_text().split()) == ["1", "2"]


def test_a_program_that_hangs_or_fails(outbox: Outbox, tmp_path: Path) -> None:
    """A program that does not end is ended with all that it has started, and put aside; `--retry` delivers it again."""
    script, pids = tmp_path / "program", tmp_path / "pids"
    script.write_text(f"#!/bin/sh\n[ -e {tmp_path}/good ] && exit 0\nsleep 60 & echo $! >>{pids}\necho stuck\nwait\n")
    script.chmod(0o700)
    rule = {"on": ["upload"], "exec": [str(script)]}
    outbox.configure(rule, timeout=1, give_up=1)
    identity = outbox.add("/a")
    behind = outbox.add("/a")
    with Deliverer(outbox.config) as deliverer:
        wait_until(lambda: "put aside" in deliverer.log, "put aside")
        for pid in pids.read_text().split():
            wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), "its child has ended")
        wait_until(lambda: deliverer.log.count("put aside") == 2, "the one behind it was tried, too")
        status, found = outbox.command("--failed", "--json")
        assert status == 0, found
        failed = [json.loads(line) for line in found.splitlines()]
        assert [each["event"]["id"] for each in failed] == [identity, behind]
        assert failed[0]["error"] == "did not end within 1 seconds" and failed[0]["target"] == f"exec {script}"
        assert "upload alice /a  exec " in outbox.command("--failed")[1]
        assert outbox.command("--retry", "nonsense")[0] == 1
        (tmp_path / "good").touch()
        assert outbox.command("--retry", identity) == (0, "1 will be delivered again.\n")
        wait_until(lambda: outbox.waiting() == 0, "delivered again")
        assert outbox.command("--failed")[1].startswith(behind)
        assert outbox.command("--retry")[0] == 0
        wait_until(lambda: outbox.waiting() == 0, "the other one, too")
        assert outbox.command("--failed") == (1, "ftpsd events: no event was put aside\n")


def _is_zombie(pid: str) -> bool:
    return ") Z" in Path(f"/proc/{pid}/stat").read_text()


def test_reload_and_stop(outbox: Outbox) -> None:
    """SIGHUP takes new rules, or keeps the old ones if there is a fault; SIGTERM lets running deliveries end."""
    release = threading.Event()

    def slow(request: Request) -> int:
        release.wait(PATIENCE)
        return 200

    with Receiver() as first, Receiver(behaviour=slow) as second:
        outbox.configure({"on": ["upload"], "webhook": {"url": first.url}})
        with Deliverer(outbox.config) as deliverer:
            outbox.add("/a")
            wait_until(lambda: len(first.accepted()) == 1, "delivered")
            outbox.configure({"on": ["uplod"], "webhook": {"url": second.url}})
            deliverer.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
            deliverer.wait_for_log("not reloaded: ")
            assert "events.rules[0].on[0]: “uplod” is not a valid value. Did you mean upload?" in deliverer.log
            outbox.add("/b")
            wait_until(lambda: len(first.accepted()) == 2, "delivered by the old rules")
            outbox.configure({"on": ["upload"], "webhook": {"url": second.url}})
            deliverer.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
            deliverer.wait_for_log("reloaded: 1 rules")
            outbox.add("/c")
            time.sleep(0.5)
            deliverer.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
            time.sleep(0.3)
            assert deliverer.process.poll() is None  # type: ignore[union-attr]
            release.set()
            assert deliverer.process.wait(PATIENCE) == 0  # type: ignore[union-attr]
        assert [record["path"] for record in second.accepted()] == ["/c"]
        assert outbox.waiting() == 0
        assert os.access(outbox.events / "delivery.json", os.R_OK)


def test_a_database_that_cannot_be_used(outbox: Outbox) -> None:
    """What keeps the deliverer from its database is logged once; when it is mended, everything is delivered."""
    obstacle = outbox.events / "deliveries.sqlite"
    obstacle.mkdir()
    with Receiver() as receiver:
        outbox.configure({"on": ["upload"], "webhook": {"url": receiver.url}})
        outbox.add("/a")
        with Deliverer(outbox.config) as deliverer:
            deliverer.wait_for_log("cannot be used")
            time.sleep(0.5)
            obstacle.rmdir()
            wait_until(lambda: len(receiver.accepted()) == 1, "delivered")
            assert deliverer.log.count("cannot be used") == 1
            with Deliverer(outbox.config.rename(outbox.config.with_name("same.yaml"))) as second:
                second.wait_for_log("another `ftpsd deliver`")


def test_order_by_path(outbox: Outbox) -> None:
    """Of the deliveries that share a path, the first one is due only: also by a rename, and also after a failure."""
    queue = Queue(outbox.events)
    paths = [["/a"], ["/b"], ["/a", "/b"], ["/b"], ["/c"], ["/a"]]
    entries = [
        {"event": str(number), "record": {"id": str(number), "event": "upload", "user": "u"}, "paths": each}
        for number, each in enumerate(paths)
    ]
    queue.intake.take_over("file", 1, entries, lambda event: ["here"], 1.0)
    queue.intake.take_over("file", 2, entries, lambda event: ["here"], 1.0)

    def due() -> list[str]:
        return [each.event for each in queue.due("here", 100.0, 10)]

    def number(event: str) -> int:
        return next(each.number for each in queue.due("here", 100.0, 10) if each.event == event)

    assert due() == ["0", "1", "4"]
    queue.remove([number("0")], 2.0)
    assert due() == ["1", "4"]
    queue.put_aside(number("1"), 3.0, "error")
    assert due() == ["4", "2"]
    queue.postpone(number("2"), 50.0, "error")
    assert due() == ["4", "2"]
    queue.remove([number("2"), number("4")], 60.0)
    assert due() == ["3", "5"]
    assert queue.retry(None, 70.0) == 1
    assert due() == ["3", "5", "1"]
    assert queue.put_target_aside("here", 80.0, "gone") == 3
    assert due() == [] and len(queue.failed()) == 3
    queue.close()
