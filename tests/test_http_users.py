"""Users of a web server: real requests over TLS, and servers that are slow, broken or hostile."""

from __future__ import annotations

import ftplib
import gzip
import hashlib
import hmac
import http.client as http_client
import io
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from ftpsd.accounts.sources import http
from ftpsd.accounts.sources.http import HttpUsers
from ftpsd.accounts.sources.source import (
    CannotLookUp,
    LoginDenied,
    Question,
    SourceFailed,
    UnusableSettings,
    WrongPassword,
)
from ftpsd.cli.main import main
from ftpsd.config.sections.sources import HttpSource
from ftpsd.protocol.addresses import plain_address
from tests.authority import make_chain
from tests.daemon import PATIENCE, WORKERS, Daemon, free_range, program
from tests.ftpclient import secured, tls_context
from tests.hostile import wait_until
from tests.http_users import Request, UserServer, users
from tests.source_daemon import log_in, wait_for_logins

Make = Callable[..., Daemon]

SECRET = "correct horse battery staple"
PEER = plain_address("192.0.2.7")
DOCUMENT = Path(__file__).parents[1] / "docs/users-http.md"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate for localhost, its key, and its authority."""
    directory = tmp_path_factory.mktemp("chain")
    make_chain(directory)
    return directory


@pytest.fixture
def server(chain: Path) -> Iterator[UserServer]:
    """A server with TLS that knows alice."""
    with UserServer(users(alice={"home": "/srv/ftp/alice", "permissions": "read-only"}), chain) as found:
        yield found


def source(url: str, secret: bool = False, **settings: Any) -> HttpUsers:
    """Return the source for a URL."""
    file = Path("/secret") if secret else None
    made = HttpSource(type="http", url=url, secret_file=file, **settings)
    return http.make(made, {} if file is None else {file: SECRET})


def login(name: str = "alice", password: str | None = "secret") -> Question:
    """Return a question."""
    return Question(name, password, PEER)


def test_a_question_and_its_answers(server: UserServer, chain: Path) -> None:
    """The request has what the document says, is signed, and is never the same; each result has its meaning."""
    asked = source(server.url, secret=True, ca_file=chain / "ca.pem")
    before = int(time.time())
    for _ in range(2):
        found = asked.ask(login())
        assert found is not None
        assert (found.name, found.verified) == ("alice", True)
        assert found.values == {"home": "/srv/ftp/alice", "permissions": "read-only"}
    first, second = server.requests
    assert (first.path, first.headers["Host"]) == ("/users?of=ftp", f"localhost:{server.port}")
    for request in (first, second):
        signature = hmac.new(SECRET.encode(), request.body, hashlib.sha256).hexdigest()
        assert request.headers["X-Ftpsd-Signature"] == f"sha256={signature}"
        question = dict(request.question)
        assert before <= question.pop("time") <= time.time()
        assert len(question.pop("nonce")) == 32
        expected = {"version": 1, "action": "login", "name": "alice", "password": "secret", "address": "192.0.2.7"}
        assert question == {**expected, "server": socket.gethostname()}
    assert first.question["nonce"] != second.question["nonce"]
    assert asked.ask(login("nobody")) is None
    with pytest.raises(WrongPassword):
        asked.ask(login(password="wrong"))
    looked_up = asked.ask(login(password=None))
    assert looked_up is not None and not looked_up.verified
    assert "password" not in server.requests[-1].question
    asked.probe()
    with pytest.raises(SourceFailed):
        list(asked.names())


def test_names_and_passwords_are_data(server: UserServer, chain: Path) -> None:
    """Quotes, line ends, lone bytes and 1 kB arrive as they are, or the name is unknown."""
    asked = source(server.url, ca_file=chain / "ca.pem")
    for name in ('"', "\\", "'; --", "{}", "a" * 1000, "\u00e4\u6f22\U0001f600", "\x01\x7f\u2028"):
        assert asked.ask(login(name, name)) is None
        assert server.requests[-1].question["name"] == server.requests[-1].question["password"] == name
    count = len(server.requests)
    assert asked.ask(login("\udcff")) is None
    assert len(server.requests) == count
    with pytest.raises(WrongPassword):
        asked.ask(login(password="\udcff"))
    assert asked.ask(login("nobody", "\udcff")) is None
    assert [request.question["action"] for request in server.requests[count:]] == ["lookup", "lookup"]


def test_a_refusal_has_a_reason(chain: Path) -> None:
    """The reason of a refusal is for the client; one that would be no line of a reply is a failure."""
    reasons: list[Any] = ["Locked until Monday.", "", "a\r\n230 Welcome.", "x" * 201, 5, None, ["a"], "\u202eabc"]
    with UserServer(
        lambda request: {"result": "denied", "reason": reasons[len(request.server.requests) - 1]}
    ) as server:
        asked = source(server.url)
        with pytest.raises(LoginDenied, match=r"^Locked until Monday\.$"):
            asked.ask(login())
        for reason in reasons[1:]:
            with pytest.raises(SourceFailed):
                asked.ask(login())
            assert server.requests[-1].server.requests, reason


def test_a_server_that_looks_up_nobody() -> None:
    """A server may call a look-up a wrong password. That is no failure: look-ups for a code precede logins."""
    with UserServer(lambda request: {"result": "wrong_password"}) as server:
        asked = source(server.url)
        asked.probe()
        with pytest.raises(CannotLookUp, match="the server does not look users up without their passwords"):
            asked.ask(login(password=None))


def test_only_a_verified_server_gets_passwords(server: UserServer, chain: Path, certificate: Path) -> None:
    """A certificate of another authority, for another host, or a server without TLS is refused before the question."""
    for asked, error in (
        (source(server.url), "certificate"),
        (source(server.url, ca_file=certificate / "certificate.pem"), "certificate"),
        (source(server.url.replace("localhost", "127.0.0.2"), ca_file=chain / "ca.pem"), "mismatch|failed"),
    ):
        with pytest.raises(SourceFailed, match=error):
            asked.ask(login())
        with pytest.raises(SourceFailed, match=error):
            asked.probe()
    with UserServer(users(alice={})) as plain:
        with pytest.raises(SourceFailed):
            source(plain.url.replace("http:", "https:"), ca_file=chain / "ca.pem").ask(login())
        assert plain.requests == []
    assert server.requests == []


def test_a_unix_socket(tmp_path: Path, chain: Path) -> None:
    """With `socket`, the connection is to that socket, with and without TLS; the URL is for the request."""
    for encrypted in (None, chain):
        path = tmp_path / f"sock{bool(encrypted)}"
        with UserServer(users(alice={"home": "/a"}), encrypted, path=path) as server:
            url = f"{server.scheme}://localhost/ask"
            asked = source(url, socket=path, ca_file=chain / "ca.pem")
            found = asked.ask(login())
            assert found is not None and found.values == {"home": "/a"}
            assert server.requests[0].headers["Host"] == "localhost"
        path.unlink()
        with pytest.raises(SourceFailed, match="No such file"):
            asked.ask(login())


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ACCEPTED = b'{"result": "accepted", "user": {}}'


def _sized(body: bytes, *headers: bytes) -> bytes:
    return HEAD + b"".join(each + b"\r\n" for each in headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _endless(request: Request, piece: bytes, head: bytes) -> None:
    request.send(head)
    while True:
        request.send(piece)


def _drip(request: Request, data: bytes) -> None:
    for each in data:
        request.send(bytes((each,)))
        time.sleep(0.3)


def _drip_body(request: Request) -> None:
    request.send(HEAD + b"\r\n")
    _drip(request, ACCEPTED)


def _hold(request: Request) -> None:
    request.connection.settimeout(PATIENCE)
    request.rfile.read(1)


BOMB = gzip.compress(b" " * 50_000_000)

#: What a server may do, and a word of what the log says.
HOSTILE: dict[str, tuple[Callable[[Request], Any], str]] = {
    "status 500": (lambda r: r.reply(500, b"oops"), "status 500"),
    "status 404": (lambda r: r.reply(404, b'{"result": "unknown"}'), "status 404"),
    "status 401": (lambda r: r.reply(401, b'{"result": "wrong_password"}'), "status 401"),
    "status 204": (lambda r: r.reply(204, b""), "status 204"),
    "redirect": (lambda r: r.reply(307, b"", Location=r.server.url), "redirects are not followed"),
    "no body": (lambda r: b"", "is not JSON"),
    "html": (lambda r: b"<html>Please log in</html>", "is not JSON"),
    "not utf-8": (lambda r: b'{"result": "\xff"}', "is not JSON"),
    "list": (lambda r: b"[]", "is not a JSON object"),
    "text": (lambda r: b'"accepted"', "is not a JSON object"),
    "true": (lambda r: b"true", "is not a JSON object"),
    "no result": (lambda r: {}, "no result"),
    "other result": (lambda r: {"result": "yes"}, "no result"),
    "result is a list": (lambda r: {"result": ["accepted"]}, "no result"),
    "result is huge": (lambda r: {"result": "x" * 60_000}, "no result"),
    "user is a list": (lambda r: {"result": "accepted", "user": []}, "not an object"),
    "user is null": (lambda r: {"result": "accepted", "user": None}, "not an object"),
    "user has a password": (lambda r: {"result": "accepted", "user": {"password": "x"}}, "verifies passwords itself"),
    "name is a number": (lambda r: {"result": "accepted", "name": 5}, "name"),
    "nested": (lambda r: b'{"result": "accepted", "user": ' + b"[" * 60_000, "JSON"),
    "nested and closed": (lambda r: b'{"a":' * 9000 + b"1" + b"}" * 9000, "JSON|nested"),
    "nan": (lambda r: b'{"result": "accepted", "user": {"quota": NaN}}', "finite"),
    "number of 50,000 digits": (lambda r: b'{"result": "accepted", "a": ' + b"9" * 50_000 + b"}", "JSON|large"),
    "key twice": (lambda r: b'{"result": "accepted", "result": "unknown"}', "key twice"),
    "key twice inside": (lambda r: b'{"result": "accepted", "user": {"home": "/a", "home": "/b"}}', "key twice"),
    "name is half": (lambda r: b'{"result": "accepted", "name": "\\udc00"}', "printable"),
    "huge body": (lambda r: r.send(_sized(b'{"a": "' + b"x" * 10_000_000 + b'"}')), "longer than"),
    "endless body": (lambda r: _endless(r, b" " * 65536, HEAD + b"\r\n"), "longer than"),
    "endless chunks": (
        lambda r: _endless(r, b"1000\r\n" + b" " * 4096 + b"\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n"),
        "longer than",
    ),
    "endless header": (lambda r: _endless(r, b"x" * 65536, HEAD), "LineTooLong|longer than"),
    "endless headers": (lambda r: _endless(r, b"a: b\r\n" * 100, HEAD), "HTTPException|longer than"),
    "endless 100": (lambda r: _endless(r, b"HTTP/1.1 100 Continue\r\n\r\n", b""), "longer than"),
    "gzip": (lambda r: r.send(_sized(BOMB, b"Content-Encoding: gzip")), "compressed"),
    "gzip unsaid": (lambda r: gzip.compress(ACCEPTED), "is not JSON"),
    "not http": (lambda r: r.send(b"220 ftp.example.com\r\n"), "BadStatusLine"),
    "binary": (lambda r: r.send(bytes(range(256)) * 10), "BadStatusLine"),
    "status line of 10 kB": (lambda r: r.send(b"HTTP/1.1 200 " + b"x" * 100_000), "LineTooLong|longer than"),
    "bad length": (lambda r: r.send(HEAD + b"Content-Length: -5\r\n\r\n" + b"{"), "JSON|failed"),
    "bad chunk": (lambda r: r.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzzz\r\n"), "failed"),
    "huge chunk": (lambda r: r.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n{" % 2**70), "IncompleteRead"),
    "chunk of a TiB": (lambda r: r.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n{" % 2**40), "IncompleteRead"),
    "negative chunk": (lambda r: r.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n{"), "negative"),
    "huge length": (lambda r: r.send(HEAD + b"Content-Length: %d\r\n\r\n{" % 2**70), "IncompleteRead"),
    "length of a TiB": (lambda r: r.send(HEAD + b"Content-Length: %d\r\n\r\n{" % 2**40), "IncompleteRead"),
    "cut": (lambda r: r.send(HEAD + b"Content-Length: 100\r\n\r\n" + ACCEPTED), "IncompleteRead"),
    "cut in the head": (lambda r: r.send(HEAD), "JSON|failed"),
    "closed": (lambda r: None, "RemoteDisconnected|failed"),
    "reset": (lambda r: r.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"), "failed"),
    "silent": (_hold, "no answer within 1 seconds"),
    "drip": (lambda r: _drip(r, _sized(ACCEPTED)), "no answer within 1 seconds"),
    "drip in the body": (_drip_body, "no answer within 1 seconds"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_server_may_do(case: str, chain: Path) -> None:
    """Whatever a server answers is an answer, or SourceFailed with a reason: in time, in bounded memory."""
    behaviour, word = HOSTILE[case]
    with UserServer(behaviour, chain) as server:
        asked = source(server.url, ca_file=chain / "ca.pem", timeout=1)
        start = time.monotonic()
        with pytest.raises(SourceFailed, match=word) as caught:
            asked.ask(login())
        assert time.monotonic() - start < 2
        assert len(str(caught.value)) < 400
        assert "secret" not in str(caught.value)


def test_phases_before_the_request(chain: Path) -> None:
    """The deadline covers the connection and the handshake, too."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        url = f"https://localhost:{listener.getsockname()[1]}/"
        asked = source(url, ca_file=chain / "ca.pem", timeout=1)
        full = [socket.socket() for _ in range(3)]
        for turn in range(2):  # no handshake; then no connection: the listener's queue is full
            start = time.monotonic()
            with pytest.raises(SourceFailed, match="no answer within 1 seconds"):
                asked.ask(login())
            assert time.monotonic() - start < 2, turn
            for each in full:
                each.setblocking(False)
                each.connect_ex(listener.getsockname())
        for each in full:
            each.close()
    with pytest.raises(SourceFailed, match="refused"):
        asked.ask(login())
    with pytest.raises(SourceFailed, match="gaierror"):
        source("https://host.invalid/").ask(login())


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"url": "http://example.com/"}, "url"),
        ({"url": "ftp://localhost/"}, "url"),
        ({"url": "https:///users"}, "url"),
        ({"url": "https://user:password@localhost/"}, "url"),
        ({"url": "https://localhost/a b"}, "url"),
        ({"url": "https://localhost/\r\nX: y"}, "url"),
        ({"url": "https://localhost:99999/"}, "url"),
        ({"url": "https://[::1/"}, "url"),
        ({"url": "https://localhost/#x"}, "url"),
        ({"url": "https://b\u00fccher.example/"}, "url"),
        ({"url": "https://localhost/", "ca_file": Path("/etc/passwd")}, "ca_file"),
        ({"url": "https://localhost/", "ca_file": Path("/nowhere")}, "ca_file"),
    ],
    ids=range(12),
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], key: str) -> None:
    """What cannot be used is a fault of the configuration, with the key."""
    with pytest.raises(UnusableSettings) as caught:
        http.make(HttpSource(type="http", **settings), {})
    assert caught.value.key == key


# --- the daemon ------------------------------------------------------------------------------------


def configured(make_daemon: Make, tmp_path: Path, url: str, chain: Path, start: bool = True, **settings: Any) -> Daemon:
    """Start a daemon with bob in its YAML file, and the server for the others."""
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "homes").mkdir(exist_ok=True)
    entry = {"type": "http", "url": url, "secret_file": str(tmp_path / "secret"), "ca_file": str(chain / "ca.pem")}
    users = {"sources": [{**entry, "timeout": 1, **settings}], "cache": {"seconds": 1, "stale_seconds": 1}}
    return make_daemon({"users": users, "sandbox": {"homes": [str(tmp_path / "homes")]}}, {"bob": {}}, start=start)


def home(tmp_path: Path, name: str = "alice") -> str:
    """Make a home."""
    directory = tmp_path / "homes" / name
    directory.mkdir(parents=True, exist_ok=True)
    return str(directory)


def test_logins(make_daemon: Make, tmp_path: Path, chain: Path) -> None:
    """A user of the server logs in with ftplib and curl, has the keys of the answer, and each refusal its reply."""

    def answer(request: Request) -> dict[str, Any]:
        if request.question["name"] == "locked":
            return {"result": "denied", "reason": "Account locked until Monday."}
        return known(request)  # type: ignore[return-value]

    known = users(alice={"home": home(tmp_path)}, carol={"home": home(tmp_path, "carol"), "permissions": "read-only"})
    with UserServer(answer, chain) as server:
        daemon = configured(make_daemon, tmp_path, server.url, chain)
        with ftplib.FTP_TLS(context=tls_context()) as client:
            client.connect(daemon.host, daemon.port, timeout=PATIENCE)
            client.login("alice", "secret")
        with secured(daemon, "alice") as own:
            assert own.upload("STOR a.txt", b"hello").startswith("226 ")
        assert (tmp_path / "homes/alice/a.txt").read_bytes() == b"hello"
        with secured(daemon, "carol") as own:
            own.expect(550, "MKD x")
        if shutil.which("curl"):
            command = [
                "curl",
                "-sS",
                "--insecure",
                "--ssl-reqd",
                "-u",
                "alice:secret",
                f"ftp://{daemon.host}:{daemon.port}/a.txt",
            ]
            assert subprocess.run(command, capture_output=True, timeout=PATIENCE).stdout == b"hello"
        assert log_in(daemon, "alice", "wrong").startswith("530 Login incorrect.")
        assert log_in(daemon, "nobody").startswith("530 Login incorrect.")
        assert log_in(daemon, "locked") == "530 Account locked until Monday."
        assert log_in(daemon, "bob").startswith("230 ")
        assert "bob" not in [request.question["name"] for request in server.requests]
    assert "Traceback" not in daemon.log and "secret" not in daemon.log.replace(str(tmp_path / "secret"), "")


def check(daemon: Daemon, *options: str) -> tuple[int, str]:
    """Run `ftpsd check`; return its exit status and what it prints."""
    with redirect_stdout(io.StringIO()) as output, redirect_stderr(output):
        status = main(["check", "-c", str(daemon.config), *options])
    return status, output.getvalue()


def test_check(make_daemon: Make, tmp_path: Path, chain: Path, server: UserServer) -> None:
    """`ftpsd check` names the line and the remedy of each fault; with --online it asks the server."""
    daemon = configured(make_daemon, tmp_path, server.url, chain, start=False)
    assert check(daemon, "--online")[0] == 0
    assert [request.question["name"] for request in server.requests] == [""]
    server.behaviour = lambda request: request.reply(502, b"")
    status, text = check(daemon, "--online")
    assert status == 1 and "users.sources[0]: status 502." in text
    entry = daemon.settings["users"]["sources"][0]
    for key, value, problem in (
        ("url", "http://intranet.example/", "would send passwords unencrypted"),
        ("url", "http", "is not the URL of a web server"),
        ("secret_file", str(tmp_path / "none"), "no such file"),
        ("ca_file", str(tmp_path / "secret"), "has no certificate"),
        ("timeout", 0, "is not between 1 and 100"),
    ):
        daemon.settings["users"]["sources"] = [{**entry, key: value}]
        daemon.write()
        status, text = check(daemon)
        assert (status, problem in text, "Traceback" in text) == (1, True, False), text
    daemon.settings["users"]["sources"] = [entry]
    daemon.write()
    (tmp_path / "secret").chmod(0o644)
    status, text = check(daemon)
    assert status == 1 and "everyone on this machine may read" in text


def test_a_server_that_is_down(make_daemon: Make, tmp_path: Path, chain: Path) -> None:
    """While the server is down, its users get 451, which no ban counts; others log in. When it is back, it is used."""
    port, _ = free_range()
    behaviour = users(alice={"home": home(tmp_path)})
    daemon = configured(make_daemon, tmp_path, f"https://localhost:{port}/", chain)
    for turn in range(2):
        for _ in range(15):
            assert log_in(daemon, "alice", "wrong").startswith("451 "), turn
        assert log_in(daemon, "bob").startswith("230 ")
        daemon.wait_for_log(r"source http\[0\]: the request failed: ConnectionRefusedError")
        with UserServer(behaviour, chain, port):
            wait_until(lambda turn=turn: daemon.log.count("answers again") == turn + 1, "the daemon sees it")  # type: ignore[misc]
            wait_for_logins(daemon, "alice")
        time.sleep(2.1)  # the login is forgotten


def test_a_slow_server_delays_nobody_else(make_daemon: Make, tmp_path: Path, chain: Path) -> None:
    """While the server keeps its users waiting, a user of another source logs in; they get 451 in time."""
    release = threading.Event()

    def answer(request: Request) -> dict[str, Any] | None:
        if request.question["name"] == "alice":
            release.wait(PATIENCE)
        return {"result": "unknown"}

    with UserServer(answer, chain) as server:
        daemon = configured(make_daemon, tmp_path, server.url, chain, concurrency=2)
        replies: list[str] = []
        waiting = [
            threading.Thread(target=lambda: replies.append(log_in(daemon, "alice"))) for _ in range(4 + 2 * WORKERS)
        ]
        for thread in waiting:
            thread.start()
        asked = "two questions of each process wait"
        wait_until(
            lambda: sum(request.question["name"] == "alice" for request in server.requests) == 2 * WORKERS, asked
        )
        start = time.monotonic()
        assert log_in(daemon, "bob").startswith("230 ")
        assert time.monotonic() - start < 1.5
        for thread in waiting:
            thread.join(PATIENCE)
        assert [reply[:4] for reply in replies] == ["451 "] * len(waiting)
        release.set()
    assert "Traceback" not in daemon.log


def test_a_lying_server(make_daemon: Make, tmp_path: Path, chain: Path) -> None:
    """Keys that cannot be used, a home elsewhere, or a body of 10 MB: 451, a line in the log, and no memory."""
    answers: list[Any] = [
        {"result": "accepted", "user": {"home": "/etc"}},
        {"result": "accepted", "user": {"home": home(tmp_path) + "/../../../etc"}},
        {"result": "accepted", "user": {"home": 5}},
        {"result": "accepted", "user": {"home": ["a"]}},
        {"result": "accepted", "user": {}},
        {"result": "accepted", "user": {"home": home(tmp_path), "quota": "much"}},
        {"result": "accepted", "user": {"home": home(tmp_path), "permissions": [[[1]]]}},
        {"result": "accepted", "user": {"home": home(tmp_path), "limits": {"sessions": True}}},
        {"result": "accepted", "user": {"home": home(tmp_path), "enabled": "yes"}},
        {"result": "accepted", "user": {"home": home(tmp_path), "unknown": 1, "x" * 1000: 2, "\n": 3}},
        {"result": "accepted", "user": {str(number): number for number in range(5000)}},
        b'{"result": "accepted", "user": {"paths": ' + b"[" * 50 + b"]" * 50 + b"}}",
        b'{"result": "accepted", "user": {"quota": {"files": 1e999}}}',
        b'{"result": "accepted", "user": {"quota": {"files": ' + b"9" * 30 + b"}}}",
        b'{"result": "accepted", "user": {"home": "/a\\u0000"}}',
        b'{"result": "accepted", "user": {"\\u0000": 1}}',
        b'{"result": "accepted", "user": {"home": "\\udc00"}}',
        b'{"result": "accepted", "name": "../../etc", "user": {"home": "{user}"}}',
        *[behaviour for behaviour, _ in HOSTILE.values()],
    ]
    current: list[Any] = []

    def answer(request: Request) -> Any:
        if request.question["name"] == "":
            return {"result": "unknown"}  # the daemon looks whether the server works
        return current[0](request) if callable(current[0]) else current[0]

    with UserServer(answer, chain) as server:
        daemon = configured(make_daemon, tmp_path, server.url, chain)
        current[:] = [{"result": "accepted", "user": {"home": home(tmp_path)}}]
        assert log_in(daemon, "alice").startswith("230 ")
        time.sleep(2.1)
        memory = daemon.memory()
        for each in answers:
            current[:] = [each]
            reply = log_in(daemon, "alice")
            assert reply.startswith("451 "), (each, reply)
        assert daemon.memory() - memory < 20 << 20
        current[:] = [{"result": "accepted", "user": {"home": home(tmp_path)}}]
        assert log_in(daemon, "alice").startswith("230 ")
    assert "Traceback" not in daemon.log, daemon.log
    assert max(map(len, daemon.log.splitlines())) < 4000


def test_the_example_of_the_document(make_daemon: Make, tmp_path: Path, chain: Path) -> None:
    """The server of docs/users-http.md answers the daemon, and nobody who cannot sign or repeats a request."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    example = tmp_path / "users.py"
    example.write_text(code.replace("/srv/ftp/alice", home(tmp_path)))
    port, _ = free_range()
    url = f"http://127.0.0.1:{port}/"
    daemon = configured(make_daemon, tmp_path, url, chain)
    command = [sys.executable, str(example), str(tmp_path / "secret"), str(port)]
    with program(command, stderr=subprocess.DEVNULL) as process:
        try:
            daemon.wait_for_log("answers again")
            wait_for_logins(daemon, "alice")
            with secured(daemon, "alice") as client:
                assert client.upload("STOR a.txt", b"hello").startswith("226 ")
            assert log_in(daemon, "alice", "wrong").startswith("530 ")
            assert log_in(daemon, "nobody").startswith("530 ")
            asked = source(url, secret=True)
            asked.probe()
            with pytest.raises(SourceFailed, match="status 403"):
                source(url).ask(login())
            body = asked._body(login())
            headers = asked._headers(body)
            for expected in (200, 403):
                connection = http_client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
                connection.request("POST", "/", body, headers)
                assert connection.getresponse().status == expected
                connection.close()
        finally:
            process.terminate()
