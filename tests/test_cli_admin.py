"""The commands that ask the running daemon, against a real daemon with real clients."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpsd.cli import admin_client
from ftpsd.cli.live import who
from ftpsd.cli.live.sorting import ORDERS, in_order
from ftpsd.cli.main import main
from ftpsd.cli.top.command import sessions_for
from ftpsd.cli.top.view import PAGE_DOWN, View
from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon, ftpsd, merge, program
from tests.ftpclient import FtpClient
from tests.hostile import plain_login

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon with an admin socket, whose path is short enough for one."""
    with tempfile.TemporaryDirectory(prefix="ftpsd") as directory:
        settings = {"admin": {"socket": f"{directory}/admin.sock"}, "bans": {"allow": []}}
        users = {"alice": {}, "bob": {}, "slow": {"limits": {"download_rate": 40_000}}}
        daemon = Daemon(tmp_path_factory.mktemp("cli"), certificate, merge(PLAIN, settings), users).start()
        (daemon.home("slow") / "big.bin").write_bytes(b"x" * 1_000_000)
        yield daemon
        daemon.stop()


@pytest.fixture
def command(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process; returns its exit status and what it printed."""

    def run(*words: str) -> tuple[int, str, str]:
        try:
            status = main([*words, "-c", str(daemon.config)])
        except SystemExit as end:
            status = int(str(end.code))
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def sessions(command: Command, *words: str) -> list[dict[str, Any]]:
    """What `ftpsd who --json` prints."""
    status, out, _ = command("who", "--json", *words)
    assert status == 0
    found: list[dict[str, Any]] = json.loads(out)
    return found


def wait_for(check: Callable[[], object]) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def uploading(daemon: Daemon, user: str, name: str) -> Iterator[tuple[FtpClient, socket.socket]]:
    """A client in the middle of an upload."""
    with FtpClient(daemon).login(user) as client, client.connect_data() as data:
        client.expect(150, f"STOR {name}")
        data.sendall(b"x" * 1000)
        yield client, data


@contextlib.contextmanager
def downloading(daemon: Daemon) -> Iterator[FtpClient]:
    """A client in the middle of a slow download of a million bytes."""
    with FtpClient(daemon).login("slow") as client, client.connect_data():
        client.expect(150, "RETR big.bin")
        yield client


# --- who -------------------------------------------------------------------------------------------


def test_who_shows_what_each_session_does(daemon: Daemon, command: Command) -> None:
    """who has a line for each session; in JSON, the fields that are promised and no other."""
    assert command("who")[:2] == (0, "")
    with uploading(daemon, "alice", "big.bin") as (client, _), FtpClient(daemon, implicit=True).login("bob") as other:
        other.expect(200, "CLNT \x1b[31mevil\x07")
        wait_for(lambda: any(each["bytes"] for each in sessions(command)))
        first, second = sessions(command)
        assert list(first) == who.FIELDS
        assert (first["user"], first["command"], first["path"], first["direction"]) == (
            "alice",
            "STOR",
            "/big.bin",
            "upload",
        )
        assert (first["bytes"], first["size"], first["tls"], first["idle"]) == (1000, None, None, None)
        assert (second["user"], second["tls"], second["path"]) == ("bob", "TLSv1.3", None)
        assert second["idle"] is not None and re.fullmatch(r"\d{4}-.*Z", second["since"])
        status, out, _ = command("who")
        title, line, other_line = out.splitlines()
        assert title.split() == ["NO", "USER", "ADDRESS", "TLS", "CLIENT", "SINCE", "IDLE", "DOING", "DONE", "RATE"]
        assert status == 0 and "STOR /big.bin" in line and "1.0K" in line
        assert "\x1b" not in out and "\x07" not in out and " idle" in other_line
        assert [each["user"] for each in sessions(command, "--user", "bob")] == ["bob"]
        assert [each["user"] for each in sessions(command, "--state", "transfer")] == ["alice"]
        assert [each["user"] for each in sessions(command, "--sort", "idle")] == ["bob", "alice"]
        assert sessions(command, "--address", "192.0.2.1") == []
        assert len(sessions(command, "--address", "127.0.0.0/8")) == 2
        del client


# --- kick, ban -------------------------------------------------------------------------------------


def test_kick_waits_for_the_transfer(daemon: Daemon, command: Command) -> None:
    """A kicked session finishes its upload, and is told why it ends."""
    with uploading(daemon, "alice", "kept.bin") as (client, data):
        (session,) = sessions(command, "--user", "alice")
        status, out, _ = command("kick", str(session["number"]), "--message", "Maintenance.")
        assert (status, out) == (0, "1 session dismissed. A running transfer ends first.\n")
        data.close()
        assert client.reply().startswith("226")
        assert client.reply() == "421 Maintenance."
    assert (daemon.home() / "kept.bin").stat().st_size == 1000


def test_kick_now_cuts_the_transfer(daemon: Daemon, command: Command) -> None:
    """With --now the upload is cut and publishes nothing."""
    with uploading(daemon, "alice", "cut.bin") as (client, _):
        assert command("kick", "--user", "alice", "--now")[0] == 0
        assert client.reply().startswith("4")
    assert not (daemon.home() / "cut.bin").exists()


def test_kick_of_nobody_is_a_negative_answer(daemon: Daemon, command: Command) -> None:
    """A number, user or address without a session: exit status 1 and a sentence. A wrong word: 2."""
    for words in (["99999999"], ["--user", "nobody"], ["--address", "192.0.2.1"]):
        status, out, err = command("kick", *words)
        assert (status, out) == (1, "") and err.startswith("ftpsd kick: ") and "session" in err
        assert "/v1/" not in err
    for wrong in (["alice"], [], ["5", "--user", "alice"], ["5", "--ban", "soon"]):
        assert command("kick", *wrong)[0] == 2


def test_a_ban_keeps_a_user_out(daemon: Daemon, command: Command) -> None:
    """kick --ban ends the sessions of a user, who cannot log in until unban."""
    with FtpClient(daemon).login("bob") as client:
        status, out, _ = command("kick", "--user", "bob", "--ban", "1h")
        assert (status, out.splitlines()[0]) == (0, "bob is banned for 1 h.")
        assert client.reply().startswith("421")
    assert re.search(r"^account +bob +until [-0-9]+ [:0-9]+, for (1 h|59 min)", command("bans")[1], re.MULTILINE)
    with FtpClient(daemon) as client:
        client.command("USER bob")
        assert client.command("PASS secret").startswith(("530", "421"))
    assert command("unban", "--user", "bob")[:2] == (0, "1 lifted.\n")
    FtpClient(daemon).login("bob").socket.close()
    status, _, err = command("unban", "--user", "bob")
    assert (status, err) == (1, "ftpsd unban: bob is not banned\n")


def test_a_ban_of_a_network(daemon: Daemon, command: Command) -> None:
    """A network is banned until the ban is lifted; clients from it get 421."""
    assert command("ban", "127.0.0.64/26")[:2] == (0, "127.0.0.64/26 is banned until the ban is lifted.\n")
    with FtpClient(daemon, greeting=False, source="127.0.0.66") as client:
        assert client.reply().startswith("421")
    with FtpClient(daemon, source="127.0.0.130"):
        pass
    bans = json.loads(command("bans", "--json")[1])
    assert bans == [{"kind": "network", "subject": "127.0.0.64/26", "until": None}]
    assert "127.0.0.64/26" in command("bans")[1]
    assert command("unban", "127.0.0.64/26")[0] == 0
    with FtpClient(daemon, source="127.0.0.66"):
        pass
    for wrong in ("alice", "127.0.0.1/8", "127.0.0.256"):
        status, _, err = command("ban", wrong)
        assert status == 2 and f"--user {wrong}" in err


# --- reload, status, events ------------------------------------------------------------------------


def test_reload_tells_how_it_ended(daemon: Daemon, command: Command) -> None:
    """reload returns 0 when the new configuration is in effect, and 1 with the faults when the old one remains."""
    good = daemon.config.read_text()
    daemon.config.write_text(good + "banner: New.\n")
    assert command("reload")[0] == 0
    with FtpClient(daemon, greeting=False) as client:
        assert client.reply() == "220 New."
    for bad in ("bannner: Bad.", "banner: [", ""):  # an unknown key, no YAML at all, and neither of them
        daemon.config.write_text(f"{good}{bad}\n" if bad else "")
        status, out, err = command("reload")
        assert (status, out) == (1, "") and f"{daemon.config}:" in err and "old configuration remains" in err, bad
    daemon.config.write_text(f"{good}bannner: Bad.\n")
    try:
        status, out, _ = command("reload", "--json")
        assert status == 1 and json.loads(out)["ok"] is False and json.loads(out)["faults"]
        assert "FAILED" in command("status")[1]
    finally:
        daemon.config.write_text(good)
    assert command("reload")[0] == 0


def test_reload_by_the_number_of_the_process(
    make_daemon: Callable[..., Daemon], daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an admin socket, reload --pid sends SIGHUP, and says where the result stands; with one, it asks there."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    without = make_daemon()
    words = ("reload", "--pid", str(without.pid), "-c", str(without.config))
    done = subprocess.run(ftpsd(*words), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "sent SIGHUP. The log says how" in done.stdout, done
    without.wait_for_log("reloaded: new sessions get the new configuration")
    without.stop()
    for number, status, said in (
        (without.pid, 3, "cannot be signalled: "),
        (10**30, 3, "cannot be signalled"),
        ("1", 2, "not the"),
    ):
        words = ("reload", "--pid", str(number), "-c", str(without.config))
        done = subprocess.run(ftpsd(*words), capture_output=True, text=True, timeout=60)
        assert done.returncode == status and said in done.stderr and "Traceback" not in done.stderr, done
    words = ("reload", "--pid", str(10**9), "-c", str(daemon.config))
    assert subprocess.run(ftpsd(*words), capture_output=True, timeout=60).returncode == 0


def test_status_shows_the_daemon(daemon: Daemon, command: Command) -> None:
    """status names listeners, limits, certificate, threads and ports; --json has what the API answers."""
    status, out, _ = command("status")
    assert status == 0
    for word in (
        f"port {daemon.port}, explicit TLS",
        "sessions",
        "certificate",
        "passive ports",
        "worker threads",
        "uptime",
    ):
        assert word in out
    found = json.loads(command("status", "--json")[1])
    assert found["listeners"][1]["tls"] == "implicit" and found["reload"]["ok"]
    for worker in found["workers"]:
        assert f"{worker['index']}: serving, " in out and f"process {worker['process']}, up " in out


def test_events_follow_an_upload(daemon: Daemon) -> None:
    """events prints what happens while it runs, filtered by event and user, until it is interrupted."""
    words = ftpsd("events", "-c", str(daemon.config), "--json", "--event", "upload", "--user", "alice")
    with program(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")), daemon=True)  # type: ignore[union-attr]
        reader.start()

        def upload_something() -> bool:
            for user in ("bob", "alice"):
                with uploading(daemon, user, "event.bin") as (client, data):
                    data.close()
                    assert client.reply().startswith("226")
            return bool(lines)

        wait_for(upload_something)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    record = json.loads(lines[0])
    assert (record["event"], record["user"], record["path"], record["bytes"]) == ("upload", "alice", "/event.bin", 1000)


# --- top -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_top_asks_for_what_it_shows(daemon: Daemon, order: str) -> None:
    """top asks for the sessions on the screen and a page below, in its order; for all with a filter or far down."""
    client = admin_client.AdminClient(Path(daemon.settings["admin"]["socket"]))
    with contextlib.ExitStack() as stack:
        users = ("alice", "bob", "")
        for number in range(12):
            user = users[number % 3]
            stack.enter_context(plain_login(daemon, user) if user else FtpClient(daemon))
        view = View(order, room=3)
        found, total = sessions_for(client, view)
        everything, count = sessions_for(client, View(order, "127.", room=3))
        assert (len(found), total, len(everything), count) == (6, 12, 12, 12)
        numbers = [each["number"] for each in in_order(everything, order)]
        if order != "idle":  # it changes from one answer to the next
            assert [each["number"] for each in found] == numbers[:6]
        view.update(found, total - len(found))
        view.press(PAGE_DOWN)
        view.press(PAGE_DOWN)
        assert len(view.shown) + view.beyond == 12
        assert len(sessions_for(client, view)[0]) == view.needed == 7
        view.selected = numbers[-1]
        assert len(sessions_for(client, view)[0]) == 12
        assert sessions_for(client, View(order, "", True, room=3)) == ([], 0)


def test_top_prints_frames_without_a_terminal(daemon: Daemon, command: Command) -> None:
    """Without a terminal top prints one frame, or as many as --count says, in 80 columns and without escapes."""
    with downloading(daemon):
        wait_for(lambda: any((each["bytes"] or 0) > 20_000 for each in sessions(command)))
        status, out, _ = command("top", "--count", "2", "--interval", "0.2", "--transfers")
        assert status == 0 and out.count("sessions 1") == 2 and out.count("RETR /big.bin") == 2
        assert re.search(r"[━─]{10} +\d+%", out) and "\x1b" not in out and max(map(len, out.splitlines())) <= 80
        assert command("top")[1].count("sessions 1") == 1


class Terminal:
    """A terminal of 80 columns and 24 lines in which a command runs."""

    def __init__(self, words: list[str], kind: str = "xterm-256color") -> None:
        pid, self._descriptor = os.forkpty()
        if pid == 0:
            os.environ.update(TERM=kind, COLUMNS="80", LINES="24", PYTHONIOENCODING="utf-8")
            os.execvp(words[0], words)
        self._pid = pid
        self.seen = ""

    def wait_for(self, pattern: str) -> None:
        """Wait until the screen shows something that matches; forget what was before."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.seen)):
            assert time.monotonic() < deadline, self.seen
            try:
                self.seen += os.read(self._descriptor, 65536).decode(errors="replace")
            except OSError as error:
                raise AssertionError(self.seen) from error
        self.last, self.seen = self.seen, ""

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._descriptor, keys.encode())

    def end(self) -> int:
        """Wait for the end of the command; return its exit status."""
        with contextlib.suppress(OSError):
            while piece := os.read(self._descriptor, 65536):
                self.seen += piece.decode(errors="replace")
        os.close(self._descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


NO_RICH = "import sys; sys.modules['rich'] = None; from ftpsd.cli.main import main; sys.exit(main())"


@pytest.mark.parametrize("with_rich", [True, False])
def test_top_on_a_terminal(daemon: Daemon, command: Command, with_rich: bool) -> None:
    """top shows a bar that moves; its keys sort, filter and kick; q leaves the terminal as it was."""
    if with_rich:
        pytest.importorskip("rich")
    words = ftpsd("top", "-c", str(daemon.config), "--interval", "0.3")
    if not with_rich:
        words[2] = NO_RICH
    with downloading(daemon) as client, FtpClient(daemon).login("bob"):
        terminal = Terminal(words)
        terminal.wait_for(r" \d%")
        assert "\x1b[?1049h" in terminal.last and ("python3-rich" in terminal.last) is not with_rich
        terminal.wait_for("━─+ +1\\d%")
        terminal.press("s")
        terminal.wait_for("sorted by user")
        terminal.press("fbig\r")
        terminal.wait_for("filter: big")
        terminal.press("\x1b[B")
        terminal.press("k")
        terminal.wait_for("y: after its transfer")
        terminal.press("n")
        terminal.wait_for("ends now")
        assert client.reply().startswith("4")
        terminal.press("q")
        assert terminal.end() == 0 and "\x1b[?1049l" in terminal.seen


def test_top_on_a_terminal_without_a_cursor(daemon: Daemon) -> None:
    """A terminal that knows no escapes (TERM=dumb) gets one frame as plain text, as a pipe does."""
    terminal = Terminal(ftpsd("top", "-c", str(daemon.config)), "dumb")
    assert terminal.end() == 0
    assert "sessions 0" in terminal.seen and "\x1b" not in terminal.seen


# --- the daemon cannot be reached ------------------------------------------------------------------


def configured(directory: Path, socket_path: str) -> str:
    """A configuration that names a socket, and is wrong otherwise."""
    (directory / "ftpsd.yaml").write_text(f"nonsense: 1\nadmin: {{socket: {socket_path}}}\n")
    return str(directory / "ftpsd.yaml")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose sockets have short names."""
    with tempfile.TemporaryDirectory(prefix="ftpsd") as directory:
        yield Path(directory)


EVERY = (["status"], ["who"], ["top"], ["kick", "1"], ["ban", "192.0.2.1"], ["unban", "--all"], ["reload"], ["events"])


@pytest.mark.parametrize("words", EVERY, ids=lambda words: words[0])
def test_without_a_daemon(words: list[str], short_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No socket, or one that a daemon has left: status 3 and a sentence."""
    where = configured(short_path, "admin.sock")
    for reason in ("no such socket", "nothing listens there"):
        if reason == "nothing listens there":
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(str(short_path / "admin.sock"))
        assert main([*words, "-c", where]) == 3
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.startswith(f"ftpsd {words[0]}: {short_path}/admin.sock: {reason}")


ANSWERS = {
    "nothing": (b"", "closed the connection"),
    "garbage": (b"SSH-2.0-x\r\n\r\n", "is not ftpsd"),
    "no JSON": (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwhat", "is not ftpsd"),
    "half of it": (b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{", "closed the connection"),
    "an error without a problem": (b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\nwhat", "500"),
    "a problem": (
        b'HTTP/1.1 403 No\r\nContent-Length: 32\r\n\r\n{"detail": "Not you\\u001b[31m."} ',
        "Not you\\x1b[31m.",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_strange_answers(name: str, short_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever listens on the socket answers, there is a sentence and no traceback."""
    answer, sentence = ANSWERS[name]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_path / "s"))
        listener.listen()

        def serve() -> None:
            connection = listener.accept()[0]
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        assert main(["status", "-c", configured(short_path, "s")]) in (1, 3)
    assert sentence in capsys.readouterr().err


def test_a_daemon_that_trickles(short_path: Path) -> None:
    """The deadline is one for the whole call, however many bytes come before it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_path / "s"))
        listener.listen()

        def serve() -> None:
            connection = listener.accept()[0]
            with contextlib.suppress(OSError), connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n")
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.05)

        threading.Thread(target=serve, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(admin_client.Unreachable, match="does not answer in time"):
            admin_client.AdminClient(short_path / "s", patience=0.3).get("status")
        assert time.monotonic() - began < 20


def test_a_socket_that_nobody_accepts(short_path: Path) -> None:
    """A daemon whose backlog is full is waited for until the deadline."""
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(short_path / "s"))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(short_path / "s"))
        with pytest.raises(admin_client.Unreachable, match="does not answer in time"):
            admin_client.AdminClient(short_path / "s", patience=0.3).get("status")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_stranger_is_told_which_group_may(daemon: Daemon) -> None:
    """A user who may not use the socket is told the group that may."""
    path = Path(daemon.settings["admin"]["socket"])
    group = pwd.getpwnam("nobody").pw_gid
    os.chown(path.parent, 0, 0)
    path.parent.chmod(0o711)
    before = path.stat()
    os.chown(path, -1, 12)  # man
    try:
        code = (
            "import os\nfrom ftpsd.cli.admin_client import AdminClient\nfrom pathlib import Path\n"
            f"os.setgroups([]); os.setgid({group}); os.setuid(65534)\n"
            f"try: AdminClient(Path({str(path)!r})).get('status')\nexcept Exception as error: print(error)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    finally:
        os.chown(path, before.st_uid, before.st_gid)
    assert "you must be root or in the group man" in done.stdout, done


def test_the_help_is_quick() -> None:
    """`ftpsd --help` and `ftpsd who` import neither Twisted nor OpenSSL: they start at once."""
    code = (
        "import contextlib, sys\nfrom ftpsd.cli.main import main\n"
        "with contextlib.suppress(SystemExit): main(sys.argv[1:])\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    for words in (["--help"], ["who", "-c", "/nowhere"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
        assert not re.search(r"'(twisted|OpenSSL|attr|cryptography|rich)'", done.stderr), done.stderr


def test_a_reader_may_go_away(daemon: Daemon) -> None:
    """`ftpsd status | true` prints no traceback."""
    words = ftpsd("status", "--json", "-c", str(daemon.config))
    with program(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
