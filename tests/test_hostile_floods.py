"""Floods on the control connection, and sessions that do nothing. After each the daemon still serves."""

from __future__ import annotations

import itertools
import random
import re
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ftpsd.commands import TABLE
from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon, merge
from tests.ftpclient import FtpClient, secured
from tests.hostile import (
    BOTH,
    MIB,
    Login,
    ends,
    established,
    frees_everything,
    open_transfer,
    plain_login,
    reset,
    wait_until,
    withstands,
)

# --- floods ----------------------------------------------------------------------------------------


def pour(connection: socket.socket, data: bytes, at_most: int) -> None:
    """Send data again and again, until the peer takes no more for a moment, or has all."""
    connection.settimeout(0.3)
    try:
        for _ in range(max(1, at_most // len(data))):
            connection.sendall(data)
    except TimeoutError:
        pass


FLOODS = {"FEAT": b"FEAT\r\n", "noise": b"\x01%\r\n", "empty lines": b"\n", "USER": b"USER " + b"x" * 8000 + b"\r\n"}


@contextmanager
def flood(clients: list[FtpClient], line: bytes) -> Iterator[None]:
    """Run clients that send a line as fast as they can, and read the replies. Clients that are disconnected end."""
    block = line * (32768 // len(line))
    over = threading.Event()

    def pour_and_read() -> None:
        with selectors.DefaultSelector() as selector:
            for client in clients:
                client.socket.setblocking(False)
                selector.register(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
            while not over.is_set():
                for key, events in selector.select(0.1):
                    assert isinstance(key.fileobj, socket.socket)
                    try:
                        if events & selectors.EVENT_READ and not key.fileobj.recv(1 << 18):
                            selector.unregister(key.fileobj)
                        elif events & selectors.EVENT_WRITE:
                            key.fileobj.send(block)
                    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                        pass
                    except OSError:
                        selector.unregister(key.fileobj)

    thread = threading.Thread(target=pour_and_read)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for client in clients:
            client.socket.close()


@pytest.mark.parametrize("known", [False, True], ids=["strangers", "one user"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("line", FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_delays_no_other_session(plain: Daemon, line: bytes, secure: bool, known: bool) -> None:
    """Whatever twenty clients send as fast as they can, commands of another user are answered meanwhile."""
    with secured(plain, "bob") as neighbour:
        clients = []
        for _ in range(20):
            clients.append(FtpClient(plain, source="127.0.0.9"))
            if secure:
                clients[-1].start_tls()
            if known:
                clients[-1].login()
        with flood(clients, line):
            for _ in range(20):
                began = time.monotonic()
                neighbour.expect(200, "NOOP")
                assert time.monotonic() - began < 1  # 20 ms on an idle machine; it was seconds
                time.sleep(0.01)


@pytest.mark.parametrize("known", [False, True], ids=["strangers", "one user"])
def test_a_flood_delays_no_watchdog_message(
    make_daemon: Callable[..., Daemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """While a hundred clients send commands as fast as they can, systemd gets its watchdog messages in time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        daemon = make_daemon(PLAIN)
        clients = [FtpClient(daemon, source="127.0.0.9") for _ in range(100)]
        for client in clients if known else []:
            client.login()
        with flood(clients, FLOODS["FEAT"]):
            seen = 0
            while seen < 4:
                systemd.settimeout(10)  # WatchdogSec is 60; a message is due each second
                seen += b"WATCHDOG=1" in systemd.recv(4096)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_unread_replies_use_little_memory(make_daemon: Callable[..., Daemon], secure: bool) -> None:
    """A client without login that sends commands and reads no reply uses a limited amount of memory."""
    daemon = make_daemon()
    with withstands(daemon):
        with FtpClient(daemon) as first:
            first.expect(214, "HELP")
        before = daemon.memory()
        clients = [FtpClient(daemon) for _ in range(10)]
        for client in clients:
            if secure:
                client.start_tls()
            pour(client.socket, b"HELP\r\n" * 10_000, 8 * MIB)
        assert daemon.memory() - before < 20 * MIB
        for client in clients:
            reset(client.socket)


def test_long_replies_are_made_one_by_one(make_daemon: Callable[..., Daemon]) -> None:
    """The long replies to pipelined commands are made only when the earlier ones have been read."""
    daemon = make_daemon()
    folder = daemon.home() / "many"
    folder.mkdir()
    for number in range(1000):
        (folder / f"{number:04d}{'x' * 240}").touch()
    with withstands(daemon):
        clients = [secured(daemon) for _ in range(5)]
        for client in clients:
            client.expect(213, "STAT many")
        before = daemon.memory()
        for client in clients:
            client.send(*["STAT many"] * 60)
        time.sleep(2)  # it has the time to make all that it will make
        assert daemon.memory() - before < 20 * MIB
        for client in clients:
            reset(client.socket)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_a_mebibyte_without_line_end(shared: Daemon, secure: bool) -> None:
    """A line without end ends the session."""
    with withstands(shared), FtpClient(shared) as client:
        if secure:
            client.start_tls()
        try:
            client.send_raw(b"A" * MIB)
            said = ends(client)
        except OSError:
            said = ""  # a reset may overtake the reply
        assert said == "" or said.startswith("500 ")


def test_ten_thousand_pipelined_commands(shared: Daemon) -> None:
    """Ten thousand pipelined commands are answered one by one, in order."""
    with withstands(shared), secured(shared) as client:
        client.socket.settimeout(60)
        verbs = itertools.cycle(verb for verb in TABLE if verb != "SITE")
        lines = ["NOOP" if number % 100 else f"HELP {next(verbs)}" for number in range(10_000)]
        data = "".join(line + "\r\n" for line in lines).encode()
        for at in range(0, len(data), 8192):  # less than what the kernel's buffers hold of replies
            client.send_raw(data[at : at + 8192])
        for line in lines:
            reply = client.reply()
            if line == "NOOP":
                assert reply.startswith("200 "), reply
            else:
                assert reply.startswith(f"214 Syntax: {TABLE[line.split()[1]].help}"), reply


@BOTH
def test_waiting_commands_use_little_memory(make_daemon: Callable[..., Daemon], login: Login) -> None:
    """While a command runs, only some of the following commands are read; the others stay in the kernel's buffers.

    In the end all of them are answered.
    """
    daemon = make_daemon(merge(PLAIN, {"limits": {"commands_per_second": None}}))
    with withstands(daemon), login(daemon) as client:
        assert client.upload("STOR f", b"f").startswith("226")
        data = open_transfer(client, "STOR f")
        before, sent = daemon.memory(), 0
        piece = (b"NOOP" + b" " * 4090 + b"\r\n") * 16
        client.socket.settimeout(1)
        with suppress(TimeoutError):
            while sent < 64 * MIB:
                client.send_raw(piece)
                sent += len(piece)
        assert sent < 64 * MIB
        assert daemon.memory() - before < 8 * MIB
        client.socket.settimeout(PATIENCE)
        if isinstance(data, ssl.SSLSocket):
            data = data.unwrap()
        data.close()
        assert client.reply().startswith("226")
        for _ in range(sent // 4096):
            assert client.reply().startswith("200 ")


def test_commands_after_a_transfer_keep_their_order(shared: Daemon) -> None:
    """Commands pipelined after a transfer are answered after it, in order."""
    (shared.home() / "slow").write_bytes(b"slow")
    with withstands(shared), secured(shared) as client:
        port = client.passive_port()
        client.send("RETR slow", "NOOP", "PWD", "SIZE slow", "MKD slow", "SYST")
        connection = client.connect_data(port)
        assert client.reply().startswith("150")
        with client.secure_data(connection) as data:
            assert data.recv(100) == b"slow"
            assert data.recv(100) == b""
            data.unwrap()
        codes = [client.reply()[:3] for _ in range(6)]
        assert codes == ["226", "200", "257", "213", "550", "215"]


def test_random_bytes(shared: Daemon) -> None:
    """Random bytes, and lines that are almost commands, never cause an internal error."""
    source = random.Random(2025)
    verbs = re.findall(r"[A-Z]{3,4}\b", _help(shared))
    words = [b"", b"-", b"/", b"..", b"~", b"*[", b"\xff\xfe", b"%s{0}{x}", b"1" * 19, b"-1", b"\r\0", b"\0"]
    words += [b"|1|::|5|", b"127,0,0,1,9999,1", b"20250231000000 x", b"UTIME 1 x", b"a=b; c", "²".encode()]
    with withstands(shared):
        for number in range(24):
            with secured(shared) if number % 2 else FtpClient(shared) as client:
                client.socket.settimeout(0.15)
                try:
                    for _ in range(40):
                        client.send_raw(_noise(source, verbs, words))
                    while client.socket.recv(65536):
                        pass
                except (OSError, ssl.SSLError):
                    pass  # cut, as it should be for some of it
                reset(client.socket)


def _help(daemon: Daemon) -> str:
    with FtpClient(daemon) as client:
        return client.expect(214, "HELP")


def _noise(source: random.Random, verbs: list[str], words: list[bytes]) -> bytes:
    if source.random() < 0.3:
        return source.randbytes(source.randrange(1, 200)) + b"\n"
    verb = source.choice([verb for verb in verbs if verb not in ("QUIT", "RMDA", "AUTH")]).encode()
    argument = b" ".join(source.choices(words, k=source.randrange(3)))
    return verb + b" " + argument + source.choice([b"\r\n", b"\n", b"\r\r\n"])


def test_odd_arguments_for_every_command(plain: Daemon) -> None:
    """No argument of any command causes an internal error."""
    (plain.home() / "odd").write_bytes(b"odd")
    arguments = ["", " ", "x y z", "99999999999999999999", "odd", "00010101000000 odd", "99991231235961 odd"]
    arguments += [
        "a" * 300,
        "[" * 200,
        "*?" * 1500,
        "/".join("a" * 150),
        "²",
        "modify=0; odd",
        "UTIME 000000000000 odd",
    ]
    arguments += [
        "CHMOD 777 odd",
        "IDLE ²",
        "|2|::1%lo|5|",
        "|1|1.2.3.4|99999|",
        "[::1%lo]",
        "-" * 100,
        "1 0",
        "5 99",
    ]
    with withstands(plain):
        for verb in sorted(set(re.findall(r"[A-Z]{3,4}\b", _help(plain))) - {"QUIT", "AUTH", "REIN", "USER"}):
            with plain_login(plain) as client:
                for argument in arguments:
                    reply = client.command(f"{verb} {argument}")
                    assert not reply.startswith("451"), (verb, argument, reply)
                    if reply.startswith("1"):
                        assert client.reply()[:1] in "245"


# --- sessions that go nowhere ------------------------------------------------------------------------


def test_half_open_sessions_end(impatient: Daemon) -> None:
    """A client that does not log in is disconnected after the login timeout, in every state before the login."""
    with withstands(impatient), frees_everything(impatient):
        silent = FtpClient(impatient)
        handshaking = FtpClient(impatient)
        handshaking.expect(234, "AUTH TLS")
        handshaking.send_raw(b"\x16\x03\x01\x02\x00")
        implicit = socket.create_connection((impatient.host, impatient.implicit_port), 20)
        busy = FtpClient(impatient)
        busy.start_tls()
        busy.expect(331, "USER alice")
        assert ends(silent).startswith("421 ")
        for client in (handshaking, busy):
            ends(client)
        while implicit.recv(4096):
            pass
        for each in (silent, handshaking, busy):
            each.socket.close()
        implicit.close()


def test_commands_do_not_prolong_the_login_timeout(impatient: Daemon) -> None:
    """Commands do not prolong the login timeout."""
    with withstands(impatient), FtpClient(impatient) as client:
        said = ""
        try:
            while not said.startswith("421"):
                said = client.command("NOOP")
                assert said, "closed without a word"
                time.sleep(0.1)
        except OSError:
            pass


def test_clients_that_read_nothing_are_disconnected(make_daemon: Callable[..., Daemon]) -> None:
    """A client that reads nothing, not even the last reply, is disconnected in the end."""
    daemon = make_daemon({"timeouts": {"login": 2}})
    with withstands(daemon):
        client = FtpClient(daemon)
        pour(client.socket, b"HELP\r\n" * 10_000, 4 * MIB)
        wait_until(lambda: not established(daemon), "the daemon closes")
        client.socket.close()


def test_a_reset_during_the_login(shared: Daemon) -> None:
    """A client whose connection is reset while its password is verified leaves nothing open."""
    with withstands(shared), frees_everything(shared):
        for _ in range(50):
            client = FtpClient(shared)
            client.start_tls()
            client.expect(331, "USER alice")
            client.send("PASS secret")
            reset(client.socket)
