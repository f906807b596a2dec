"""The audit file and xferlog: what is in them, and that no disk, rotation or stop loses lines or harms a session."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.events import event_files
from ftpsd.events.append_file import AppendFile
from ftpsd.events.event_files import LineWriter
from ftpsd.events.session_events import info
from ftpsd.events.types import TransferEnded
from ftpsd.events.xferlog import xferlog_line
from ftpsd.protocol.addresses import plain_address
from tests.daemon import PATIENCE, Daemon
from tests.disks import SmallDisk
from tests.ftpclient import FtpClient, secured

#: The fields of xferlog(5), written down from the manual of ProFTPD.
XFERLOG = re.compile(
    r"(?P<time>(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ 0-3]\d \d\d:\d\d:\d\d \d{4}) (?P<seconds>\d+) (?P<host>\S+) "
    r"(?P<size>\d+) (?P<name>\S+) (?P<type>[ab]) (?P<action>[CUT_]+) (?P<direction>[io]) (?P<mode>[agr]) (?P<user>\S+) "
    r"(?P<service>\S+) (?P<method>[01]) (?P<id>\S+) (?P<status>[ci])"
)


def transfers(file: Path) -> list[tuple[str, ...]]:
    """The lines of an xferlog: user, direction, name, bytes, type and status. Each of them has the right form."""
    found = []
    for line in file.read_text().splitlines():
        match = XFERLOG.fullmatch(line)
        assert match is not None, line
        when = datetime.strptime(match["time"], "%a %b %d %H:%M:%S %Y")
        assert abs(datetime.now() - when) < timedelta(hours=1)
        assert int(match["seconds"]) >= 1
        found.append(match.group("user", "direction", "name", "size", "type", "status"))
    return found


def records(file: Path) -> list[dict[str, Any]]:
    """The lines of an audit file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def until(condition: Callable[[], object]) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has(file: Path, text: str) -> Callable[[], bool]:
    """Whether a file contains a text."""
    return lambda: file.exists() and text in file.read_text()


def logging(directory: Path, **settings: Any) -> dict[str, Any]:
    """Settings with both files in a directory."""
    directory.mkdir(exist_ok=True)
    return {"events": {"audit": str(directory / "audit"), "xferlog": str(directory / "xferlog")}, **settings}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon that writes both files."""
    top = tmp_path_factory.mktemp("audit")
    daemon = Daemon(top, certificate, logging(top / "events")).start()
    until(has(top / "events/audit", '"start"'))
    yield daemon
    daemon.stop()


@pytest.fixture
def log(daemon: Daemon) -> Path:
    """The directory of the files, which are empty when the test begins."""
    time.sleep(2 * event_files.INTERVAL)  # for what the last test has left
    for name in ("audit", "xferlog"):
        file = daemon.directory / "events" / name
        until(file.exists)
        os.truncate(file, 0)
    return daemon.directory / "events"


def cut_upload(client: FtpClient, command: str) -> None:
    """Sends seven bytes of an upload, and closes the connection without close_notify."""
    port = client.passive_port()
    client.send(command)
    connection = client.secure_data(client.connect_data(port))
    assert client.reply().startswith("150")
    connection.sendall(b"a start")
    connection.close()
    assert client.reply().startswith("426")


# --- what is in the files ----------------------------------------------------------------------------


def test_what_a_session_does_is_audited(daemon: Daemon, log: Path) -> None:
    """Every login, transfer and change of a file is a line of the audit file, in order; questions are not."""
    with FtpClient(daemon) as client:
        client.start_tls()
        client.expect(331, "USER hunter2")
        client.expect(530, "PASS hunter2")
    with secured(daemon) as client:
        assert client.upload("STOR in é.txt", b"0123456789").startswith("226")
        assert client.upload("APPE in é.txt", b"01234").startswith("226")
        client.expect(350, "REST 10")
        assert client.download("RETR in é.txt") == b"01234"
        cut_upload(client, "STOR large")
        assert client.download("MLSD")
        client.expect(257, "PWD")
        client.expect(257, "MKD d")
        client.expect(350, "RNFR in é.txt")
        client.expect(250, "RNTO d/b")
        client.expect(213, "MFMT 20200101000000 d/b")
        client.expect(200, "SITE CHMOD 600 d/b")
        client.expect(550, "RMD d")
        client.expect(250, "DELE d/b")
        client.expect(250, "RMD d")
        client.expect(221, "QUIT")
    until(has(log / "audit", '"disconnect"'))
    until(has(log / "xferlog", "/large"))
    found = records(log / "audit")
    names = "login_failed login upload upload download upload_failed mkdir rename mtime chmod delete rmdir disconnect"
    assert " ".join(record["event"] for record in found) == names
    assert found[0]["user"] == "********"
    assert {record["user"] for record in found[1:]} == {"alice"}
    assert {record["address"] for record in found} == {"127.0.0.1"}
    assert len({record["id"] for record in found}) == len(found)
    assert len({record["session"] for record in found[1:]}) == 1
    upload, append, download, failed = found[2:6]
    assert (upload["path"], upload["bytes"], upload["append"]) == ("/in é.txt", 10, False)
    assert (append["bytes"], append["append"]) == (5, True)
    assert (download["bytes"], download["offset"]) == (5, 10)
    assert (failed["path"], failed["code"]) == ("/large", 426)
    assert (found[7]["path"], found[7]["new_path"]) == ("/in é.txt", "/d/b")


def test_transfers_are_in_xferlog(daemon: Daemon, log: Path) -> None:
    """Each transfer of a file is a line that follows xferlog(5): complete or not, text or binary, blanks replaced."""
    with secured(daemon) as client:
        assert client.upload("STOR a b.txt", bytes(3000)).startswith("226")
        cut_upload(client, "STOR large")
        assert client.download("LIST")
        client.expect(200, "TYPE A")
        client.upload("STOR text", b"a\r\nb\r\n")
        client.download("RETR text")
    until(lambda: len(transfers(log / "xferlog")) == 4)
    first, cut, text, back = transfers(log / "xferlog")
    assert first == ("alice", "i", "/a_b.txt", "3000", "b", "c")
    assert cut == ("alice", "i", "/large", "7", "b", "i")
    assert text == ("alice", "i", "/text", "6", "a", "c")
    assert back == ("alice", "o", "/text", "6", "a", "c")
    analysed(log)


def analysed(log: Path) -> None:
    """Lets webalizer read xferlog."""
    if shutil.which("webalizer") is None:
        pytest.skip("webalizer is not installed")
    command = ["webalizer", "-F", "ftp", "-n", "test", "-o", str(log), str(log / "xferlog")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert re.search(r"^4 records in ", done.stdout, re.MULTILINE), done.stdout
    history = (log / "webalizer.hist").read_text().splitlines()
    assert [line.split()[2:4] for line in history if line.split()[2:3] > ["0"]][-1] == [
        "4",
        "3",
    ]  # hits, and files: one is not complete


def test_starts_reloads_and_stops_are_audited(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """The file begins with the start, has reloads and failed ones, and ends with what sessions did until the stop."""
    daemon = make_daemon(logging(tmp_path / "events", timeouts={"drain": 20}))
    audit = tmp_path / "events/audit"
    daemon.reload()
    good = daemon.config.read_text()
    daemon.config.write_text(good + "unknown: 1\n")
    os.kill(daemon.pid, 1)
    daemon.wait_for_log("remains in effect")
    daemon.config.write_text(good)
    with secured(daemon) as client:
        for number in range(50):
            assert client.upload(f"STOR {number}", b"x").startswith("226")
        daemon.stop()
    found = records(audit)
    assert [record["event"] for record in found if record["event"] != "upload"] == [
        "start",
        "reload",
        "reload_failed",
        "login",
        "stop",
        "kick",
        "disconnect",
    ]
    assert "unknown key" in found[2]["faults"][0]
    assert [record["path"] for record in found if record["event"] == "upload"] == [f"/{n}" for n in range(50)]
    assert len(transfers(tmp_path / "events/xferlog")) == 50
    assert audit.stat().st_mode & 0o777 == 0o640


# --- rotation ----------------------------------------------------------------------------------------

ROTATIONS = {
    "rename": "{file} {{\n rotate 1\n nocreate\n}}",
    "create": "{file} {{\n rotate 1\n create 0640\n}}",
    "signal": "{file} {{\n rotate 1\n nocreate\n postrotate\n kill -HUP {pid}\n endscript\n}}",
    "copytruncate": "{file} {{\n rotate 1\n copytruncate\n}}",
}


@pytest.mark.parametrize("how", ROTATIONS)
def test_logrotate(daemon: Daemon, log: Path, how: str) -> None:
    """After logrotate, the next line is in the new file, and no line is lost, with and without a signal."""
    if shutil.which("logrotate") is None:
        pytest.skip("logrotate is not installed")
    audit = log / "audit"
    script = ROTATIONS[how].format(file=audit, pid=daemon.pid)
    config = daemon.directory / "logrotate.conf"
    config.write_text(script)
    config.chmod(0o600)
    with secured(daemon) as client:
        client.expect(257, "MKD before")
        until(has(audit, "/before"))
        command = ["logrotate", "--force", "--state", str(daemon.directory / "state"), str(config)]
        subprocess.run(command, timeout=PATIENCE, check=True, capture_output=True)
        client.expect(250, "RMD before")
        client.expect(221, "QUIT")
    until(has(audit, '"disconnect"'))
    rotated = audit.with_name("audit.1")
    events = [[record["event"] for record in records(file)] for file in (rotated, audit)]
    rotated.unlink()
    if how == "signal":
        events[1] = [event for event in events[1] if event != "reload"]
    assert events == [["login", "mkdir"], ["rmdir", "disconnect"]]


def test_the_file_is_back_after_a_signal(daemon: Daemon, log: Path) -> None:
    """SIGHUP creates a file that was renamed, before there is something to write."""
    os.rename(log / "xferlog", log / "xferlog.1")
    daemon.reload()
    until((log / "xferlog").exists)


def test_a_reload_changes_the_files(daemon: Daemon, log: Path) -> None:
    """A reload can name another file, or none."""
    settings = dict(daemon.settings)
    try:
        daemon.settings["events"] = {"audit": str(log / "other")}
        daemon.write()
        daemon.reload()
        with secured(daemon) as client:
            assert client.upload("STOR f", b"x").startswith("226")
            client.expect(221, "QUIT")
        until(has(log / "other", '"disconnect"'))
        assert not transfers(log / "xferlog")
        assert not {record["event"] for record in records(log / "audit")} & {"login", "upload"}
    finally:
        daemon.settings = settings
        daemon.write()
        daemon.reload()


# --- disks that fail ---------------------------------------------------------------------------------


def test_a_full_disk_harms_no_session(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """With a full disk the daemon serves, logs one line, and writes the lines that have waited when there is room."""
    disk = SmallDisk(tmp_path / "events", 65536)
    daemon = make_daemon(logging(disk.directory), start=False).start(disk.prefix)
    inside = disk.inside(daemon.pid)
    with secured(daemon) as client:
        client.expect(257, "MKD before")
        until(has(inside / "audit", "/before"))
        try:
            (inside / "ballast").write_bytes(bytes(1 << 20))
        except OSError:
            pass  # as much as there was room for
        for number in range(60):  # more than the rest of the last page
            client.expect(257, f"MKD {number}-{'x' * 100}")
        daemon.wait_for_log("audit cannot be written: No space left on device")
        for number in range(60):
            client.expect(250, f"RMD {number}-{'x' * 100}")
        time.sleep(1.5)  # an attempt
        (inside / "ballast").unlink()
        client.expect(221, "QUIT")
    until(has(inside / "audit", '"disconnect"'))
    events = [record["event"] for record in records(inside / "audit")]
    assert events == ["start", "login", "mkdir", *["mkdir"] * 60, *["rmdir"] * 60, "disconnect"]
    daemon.wait_for_log("audit is written again")
    assert daemon.log.count("audit cannot be written") == 1


def test_a_missing_directory_harms_no_session(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """When the directory is removed, the daemon serves and logs one line; the file is back with the directory."""
    settings = logging(tmp_path / "events", sandbox={"landlock": "off"})  # which would not know the new directory
    daemon = make_daemon(settings)
    until((tmp_path / "events/audit").exists)
    shutil.rmtree(tmp_path / "events")
    with secured(daemon) as client:
        client.expect(257, "MKD d")
        daemon.wait_for_log("audit cannot be written: No such file or directory")
        client.expect(250, "RMD d")
        (tmp_path / "events").mkdir()
        until(has(tmp_path / "events/audit", '"rmdir"'))
    assert [record["event"] for record in records(tmp_path / "events/audit")][-3:] == ["login", "mkdir", "rmdir"]
    assert daemon.log.count("audit cannot be written") == 1


class Jobs:
    """Jobs that run when the test says so, as a disk that does not answer lets them wait."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def submit(self, job: Callable[[], object]) -> None:
        """Let a job wait."""
        self.waiting.append(job)

    def call_in_reactor(self, function: Callable[..., object], *arguments: object) -> None:
        """Call it at once."""
        function(*arguments)

    def run(self) -> None:
        """Run the jobs that wait."""
        jobs, self.waiting = self.waiting, []
        for job in jobs:
            job()


def test_a_disk_that_does_not_answer_costs_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines wait up to a bound; further ones are dropped, counted and logged. One job at a time waits for the disk."""
    monkeypatch.setattr(event_files, "CAPACITY", 5)
    logged: list[Any] = []
    globalLogPublisher.addObserver(logged.append)
    clock, jobs = Clock(), Jobs()
    try:
        writer = LineWriter(clock, jobs, tmp_path / "file")
        for number in range(12):
            writer.put(partial(str, number))
            clock.advance(1)
        assert len(jobs.waiting) == 1
        jobs.run()
        clock.advance(1)
        jobs.run()
    finally:
        globalLogPublisher.removeObserver(logged.append)
    assert (tmp_path / "file").read_text().split() == ["0", "1", "2", "3", "4", "5"]
    assert [line["log_format"].format(**line) for line in logged] == [
        f"too many events wait for {tmp_path}/file: events are dropped",
        f"6 events for {tmp_path}/file were dropped",
    ]


def test_no_line_is_cut_or_written_twice(tmp_path: Path) -> None:
    """When a write fails in the middle of a line, its beginning is removed, and the next write begins with the line."""
    file = AppendFile(tmp_path / "file")
    file.write(b"first\n")
    write, left = os.write, 10

    def fails(descriptor: int, data: bytes) -> int:
        nonlocal left
        if left == 0:
            raise OSError(28, "No space left on device")
        count = write(descriptor, data[: min(left, 7)])
        left -= count
        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", fails)
        with pytest.raises(OSError, match="space"):
            file.write(b"second\nthird\n")
        assert (tmp_path / "file").read_bytes() == b"first\nsecond\n"
        left = 1000
        file.write(b"fourth\n")
    assert (tmp_path / "file").read_bytes() == b"first\nsecond\nthird\nfourth\n"


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_only_a_regular_file_is_written(tmp_path: Path, kind: str) -> None:
    """A link, a FIFO or a directory in place of the file is an error, and neither blocks nor is followed."""
    path, target = tmp_path / "file", tmp_path / "target"
    target.touch()
    {"link": lambda: path.symlink_to(target), "fifo": lambda: os.mkfifo(path), "directory": path.mkdir}[kind]()
    with pytest.raises(OSError, match=r"."):
        AppendFile(path).write(b"line\n")
    assert target.read_bytes() == b""


# --- the format --------------------------------------------------------------------------------------

UPLOAD = TransferEnded(
    attrs.evolve(info(1, plain_address("2001:db8::1")), user="a b"), "upload", "/x", 0, False, 5, 0.2, 226, "Complete."
)


@pytest.mark.parametrize(
    ("path", "word"),
    [("/a b", "/a_b"), ("/a\nb\tc", "/a_b_c"), ("/é", "/é"), ("/\u2028\xa0\udcff", "/___"), ("/a\\b", "/a\\b")],
)
def test_a_name_is_one_word(path: str, word: str) -> None:
    """Blanks and unprintable characters of names are replaced by underscores, so that a line has its fields."""
    line = xferlog_line(attrs.evolve(UPLOAD, path=path), 0)
    match = XFERLOG.fullmatch(line)
    assert match is not None
    assert match["name"] == word
    assert match["user"] == "a_b"
    assert len(line.split()) == 18


def test_a_day_of_one_digit_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time has 24 characters, as ctime(3) writes it, whatever the locale is."""
    monkeypatch.setattr(time, "localtime", time.gmtime)
    assert xferlog_line(UPLOAD, 5 * 86400).startswith(
        "Tue Jan  6 00:00:00 1970 1 2001:db8::1 5 /x b _ i r a_b ftp 0 * c"
    )


# --- the settings ------------------------------------------------------------------------------------


def test_faults_of_the_settings(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A directory that is missing, a file that is none, and one file for both are faults, each with its remedy."""
    (tmp_path / "fifo").mkdir()
    daemon = make_daemon(start=False)

    def fault(**files: str) -> str:
        daemon.settings["events"] = files
        daemon.write()
        with pytest.raises(InvalidConfiguration) as found:
            load.load(daemon.config)
        (only,) = found.value.faults
        return str(only).partition(": ")[2].replace(str(tmp_path), "")

    assert fault(audit=f"{tmp_path}/no/audit") == (
        "events.audit: /no is not a directory. Create it for the daemon's user: install -d -m 0750 -o ftpsd -g ftpsd /no"
    )
    assert fault(xferlog=f"{tmp_path}/fifo") == (
        "events.xferlog: /fifo is not a regular file. Remove it, or name another file."
    )
    both = str(tmp_path / "both")
    assert fault(audit=both, xferlog=both) == "events.xferlog: is the file of events.audit. Name another file."
    daemon.settings["events"] = {"audit": str(daemon.home() / "audit")}
    daemon.write()
    found = [str(warning) for warning in load.warnings(load.load(daemon.config), time.time())]
    assert f"the home {daemon.home()} contains {daemon.home()}/audit: choose another directory" in found
