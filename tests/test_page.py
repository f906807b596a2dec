"""The page for administrators over HTTP: who may use it, and what a stranger's page in the same browser cannot do."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ftpsd.admin.page import live, logins, server, stream, streams
from ftpsd.admin.page.logins import Logins
from ftpsd.admin.page.stream import Stream
from ftpsd.admin.page.streams import Streams
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from tests.daemon import PATIENCE, Daemon
from tests.ftpclient import FtpClient, read_all, secured
from tests.page import Browser, page_settings

STATIC = Path(server.__file__).with_name("static")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon with the page, which also has a name."""
    top = tmp_path_factory.mktemp("page")
    settings = page_settings(top, bans={"attempts": 3, "allow": ["127.0.0.1"]})
    settings["admin"]["page"].update(hosts=["files.example.org"], address="127.0.0.1")
    daemon = Daemon(top, certificate, settings).start()
    yield daemon
    daemon.stop()


@pytest.fixture
def browser(daemon: Daemon) -> Browser:
    """A browser that has logged in."""
    browser = Browser(daemon)
    assert browser.log_in() == 200
    return browser


# --- login -------------------------------------------------------------------------------------------


def test_a_link_works_once(daemon: Daemon) -> None:
    """A code logs one browser in; a second login with it, and a wrong code, are refused with a sentence."""
    first, second = Browser(daemon), Browser(daemon)
    code = first.link().partition("=")[2]
    assert first.log_in(code) == 200
    assert "HttpOnly; SameSite=Strict" in first.cookie
    assert first.call("GET", "/session")[1]["administrator"] == "root"
    assert second.log_in(code) == 403
    status, problem = second.call("POST", "/login", {"code": "wrong"})
    assert (status, problem["title"]) == (403, "Forbidden")
    assert "ftpsd page" in problem["detail"]


def test_malformed_requests_are_problems(daemon: Daemon) -> None:
    """The page answers a request that cannot be read as the API does."""
    port = daemon.settings["admin"]["page"]["port"]
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in answer


def test_codes_and_browsers_expire() -> None:
    """A code is good for ten minutes. A browser that asks nothing for twelve hours has to log in again."""
    clock = Clock()
    register = Logins(clock.seconds)
    late, code = register.make_code("root"), register.make_code("root")
    browser = register.log_in(code)
    assert browser is not None
    clock.advance(logins.CODE_LIFE)
    assert register.log_in(late) is None
    assert register.find(browser.cookie) == browser
    for _ in range(3):
        clock.advance(logins.IDLE - 1)
        assert register.find(browser.cookie) == browser
    clock.advance(logins.IDLE)
    assert register.find(browser.cookie) is None


def test_codes_and_browsers_are_few() -> None:
    """Only so many codes and browsers are remembered; the oldest one is forgotten."""
    register = Logins(Clock().seconds)
    codes = [register.make_code("root") for _ in range(logins.CAPACITY + 1)]
    assert register.log_in(codes[0]) is None
    browsers = [register.log_in(code) for code in codes[1:]]
    another = register.log_in(register.make_code("root"))
    assert another is not None
    found = [register.find(each.cookie) for each in [*browsers, another] if each is not None]
    assert found == [None, *browsers[1:], another]


def read_to_end(stream: socket.socket) -> None:
    """Read what a stream still has, which must end soon."""
    deadline = time.monotonic() + PATIENCE
    while stream.recv(65536):
        assert time.monotonic() < deadline, "the stream does not end"


@pytest.mark.parametrize("path", ["/live", "/v1/events"])
def test_logout(browser: Browser, path: str) -> None:
    """After the logout, the cookie is worth nothing, and the stream has ended: that of the page, and that of the API."""
    with browser.stream(path=path) as stream:
        assert stream.recv(4096)
        assert browser.call("POST", "/logout") == (200, {"ok": True})
        read_to_end(stream)
    assert browser.call("GET", "/session")[0] == 401


@pytest.mark.parametrize("path", ["/live", "/v1/events"])
def test_streams_of_a_forgotten_browser(daemon: Daemon, browser: Browser, path: str) -> None:
    """A browser that was forgotten, because many others have logged in, gets no more data. The others do."""
    last = browser
    with browser.stream(path=path) as stream:
        assert stream.recv(4096)
        for _ in range(logins.CAPACITY):
            last = Browser(daemon)
            assert last.log_in() == 200
        read_to_end(stream)
        with last.stream(path=path) as other:
            assert other.recv(4096)
    assert browser.call("GET", "/session")[0] == 401


def test_streams_of_an_expired_login() -> None:
    """The streams of a browser that asks nothing for twelve hours end then. A stream that has ended is left alone."""

    class Request:
        is_gone = finished = False

        def __init__(self) -> None:
            self.over: Deferred[None] = Deferred()
            self.ends = 0

        def notifyFinish(self) -> Deferred[None]:
            """Return what fires at the end of the answer."""
            return self.over

        def end_stream(self) -> None:
            """Note it."""
            self.ends += 1
            self.over.callback(None)

    clock = Clock()
    register = Logins(clock.seconds)
    watched = Streams(clock, register)
    watched.start()
    browser = register.log_in(register.make_code("root"))
    assert browser is not None
    requests: list[Any] = [Request(), Request(), Request()]
    for each in requests:
        watched.add(each, browser.cookie)
    requests[0].over.errback(Failure(ConnectionLost()))
    clock.advance(logins.IDLE - 1)
    assert [each.ends for each in requests] == [0, 0, 0]
    clock.advance(1)
    clock.advance(streams.INTERVAL)
    clock.advance(streams.INTERVAL)
    assert [each.ends for each in requests] == [0, 1, 1]
    watched.stop()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/session"),
        ("GET", "/history"),
        ("GET", "/recent"),
        ("GET", "/live"),
        ("GET", "/v1/status"),
        ("GET", "/v1/sessions"),
        ("DELETE", "/v1/sessions?user=alice"),
        ("POST", "/v1/page/logins"),
        ("POST", "/logout"),
    ],
)
def test_strangers_get_nothing(daemon: Daemon, method: str, path: str) -> None:
    """Without a login there is no answer but 401; only the files of the page are for everybody."""
    stranger = Browser(daemon)
    for cookie in ("", "ftpsd_page=x", f"ftpsd_page_{stranger.port}=x"):
        assert stranger.call(method, path, Cookie=cookie)[0] == 401


def test_failed_logins_lead_to_a_ban(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Wrong codes count like wrong passwords: the address is banned, for the page and for FTP, and the log says so."""
    daemon = make_daemon(page_settings(tmp_path, bans={"attempts": 3, "allow": []}))
    browser = Browser(daemon)
    for _ in range(3):
        assert browser.log_in("wrong") == 403
    assert browser.call("POST", "/login", {"code": "wrong"})[1]["detail"].startswith("Logins from your address")
    assert browser.log_in() == 403
    with FtpClient(daemon, greeting=False) as client:
        assert client.reply().startswith("421")
    daemon.wait_for_log("banned for 600 seconds: too many failed logins at the page")


# --- other sites in the same browser -----------------------------------------------------------------


def test_changes_need_the_header_of_the_page(browser: Browser) -> None:
    """A request with the cookie alone, as another site could cause, changes nothing."""
    for header in ("", "wrong", "é"):
        browser.headers["X-Ftpsd-Csrf"] = header
        status, problem = browser.call("POST", "/v1/bans", {"user": "bob"})
        assert (status, "x-ftpsd-csrf" in problem["detail"]) == (403, True)
        assert browser.call("DELETE", "/v1/bans?all=true")[0] == 403
    assert browser.call("GET", "/v1/bans") == (200, {"bans": []})


def test_other_names_are_not_served(browser: Browser) -> None:
    """A stranger's name that resolves to this address gets neither data nor page (DNS rebinding)."""
    for host in ("evil.example", "127.0.0.1.evil.example:8121", "localhost.evil.example", ""):
        for path in ("/", "/session", "/v1/status"):
            with browser.request("GET", path, Host=host or "x") as answer:
                assert answer.status == 421
    for host in ("localhost:9000", "127.0.0.1", "[::1]:8121", "files.example.org", "FILES.example.org:443"):
        assert browser.call("GET", "/session", Host=host)[0] == 200


def test_every_answer_has_the_policy(browser: Browser) -> None:
    """Pages, data and errors forbid scripts and requests that are not this server's, frames, and copies in caches."""
    for path in ("/", "/app.js", "/session", "/v1/status", "/nothing", "/v1/nothing"):
        with browser.request("GET", path) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; ")
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-store"


def test_the_files_name_no_other_server() -> None:
    """The page loads nothing from elsewhere, and has no script or style in its HTML."""
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    for target in re.findall(r"(?:src|href)=\"([^\"]*)\"", page):
        assert target.startswith("#") or (STATIC / target).is_file(), target
    assert not re.search(r"<style|<script(?! type=\"module\" src=)|\son\w+=|\sstyle=", page)
    for script in STATIC.glob("*.js"):
        for target in re.findall(r"^import .* from \"(.*)\";$", script.read_text(), re.MULTILINE):
            assert (STATIC / target).is_file(), target
        assert "innerHTML" not in script.read_text()
        assert "http" not in re.sub(r"//.*", "", script.read_text()).replace("https://", "")


@pytest.mark.parametrize("path", ["/../server.py", "/%2e%2e/server.py", "//etc/passwd", "/static/", "/vendor", "/.."])
def test_only_the_files_of_the_page_are_served(browser: Browser, path: str) -> None:
    """No path leads out of the page."""
    with browser.request("GET", path) as answer:
        assert answer.status == 404


# --- data --------------------------------------------------------------------------------------------


def events_of(live: Any, name: str) -> Iterator[Any]:
    """The data of the events of a name in a stream."""
    data = b""
    while received := live.recv(65536):
        data += received
        found = re.findall(rb"event: %s\ndata: (.*)\n\n" % name.encode(), data)
        if found:
            data = b""
            yield from map(json.loads, found)


def test_the_stream_shows_sessions_and_events(daemon: Daemon, browser: Browser) -> None:
    """The stream has the state, the sessions that the query is about, and what happens."""
    with secured(daemon) as client, secured(daemon, "bob"), browser.stream("?user=alice&limit=5") as live:
        sessions = next(events_of(live, "sessions"))
        assert [each["user"] for each in sessions["sessions"]] == ["alice"]
        assert next(events_of(live, "status"))["sessions"]["used"] >= 2
        client.expect(257, "MKD seen")
        happened = next(events_of(live, "events"))
        assert [(each["event"], each["path"]) for each in happened] == [("mkdir", "/seen")]
        client.expect(250, "RMD seen")
    recent = browser.call("GET", "/recent")[1]
    assert "login" in [each["event"] for each in recent["events"]]
    history = browser.call("GET", "/history")[1]
    assert {len(points) for points in history.values()} == {len(history["time"])}


def test_browsers_that_leave_early_take_no_place(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A browser that leaves before its stream begins, while workers are asked for sessions, takes no place for good."""
    daemon = make_daemon(page_settings(tmp_path, workers=2))
    browser = Browser(daemon)
    assert browser.log_in() == 200
    for _ in range(3 * live.MOST_STREAMS):
        browser.stream().close()
    with browser.stream() as stays:
        assert next(events_of(stays, "sessions")) == {"sessions": [], "total": 0}
    assert "internal error" not in daemon.log


def test_a_wrong_filter_is_told(browser: Browser) -> None:
    """A stream for a filter that cannot be used is refused with a sentence."""
    status, problem = browser.call("GET", "/live?address=here")
    assert (status, problem["parameter"]) == (400, "address")


def test_what_the_page_does_has_a_name(daemon: Daemon, browser: Browser) -> None:
    """The log names who kicks a session by the page."""
    with secured(daemon) as client:
        (session,) = browser.call("GET", "/v1/sessions?user=alice")[1]["sessions"]
        assert browser.call("DELETE", f"/v1/sessions/{session['number']}") == (200, {"dismissed": 1})
        assert client.reply().startswith("421")
    daemon.wait_for_log(rf"root \(page\): kick session {session['number']}")


def test_bans_of_administrators_are_events(browser: Browser) -> None:
    """A ban, and its end, are events like those after failed logins; without a length it has no `seconds`."""
    for seconds in (60, None):
        assert browser.call("POST", "/v1/bans", {"address": "203.0.113.9", "seconds": seconds})[0] == 201
        assert browser.call("DELETE", "/v1/bans?address=203.0.113.9") == (200, {"lifted": 1})
    events = browser.call("GET", "/recent")[1]["events"]
    found = [each for each in events if each["event"] in ("ban", "unban") and "203.0.113.9" in each["subject"]]
    assert [(each["event"], each.get("seconds")) for each in found] == [
        ("ban", 60),
        ("unban", None),
        ("ban", None),
        ("unban", None),
    ]


class Channel:
    """A connection."""

    aborted = False

    def set_deadline(self, _: object) -> None:
        """Set nothing."""

    def abort(self) -> None:
        """Note it."""
        self.aborted = True


def test_a_browser_that_does_not_read_is_cut_off() -> None:
    """While a browser reads nothing, nothing is sent; after a minute its connection is closed."""

    class Request:
        channel = Channel()

    request: Any = Request()
    live = Stream(request, "")
    live.pauseProducing()
    for _ in range(stream.MOST_SKIPPED - 1):
        assert not live.is_ready
    assert not request.channel.aborted
    assert not live.is_ready
    assert request.channel.aborted


# --- settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ({"address": "localhost"}, "admin.page.address: “localhost” is not an IP address."),
        ({"port": 70000}, "admin.page.port: 70000 is not a port."),
        ({"hosts": ["a b"]}, "admin.page.hosts[0]: “a b” is not a host name."),
        ({"tls": True}, "admin.page.tls: unknown key."),
    ],
)
def test_faults(make_daemon: Callable[..., Daemon], page: dict[str, Any], fault: str) -> None:
    """What cannot be a listener or a name is a fault."""
    daemon = make_daemon({"admin": {"page": page}}, start=False)
    with pytest.raises(InvalidConfiguration) as found:
        load.load(daemon.config)
    assert fault in str(found.value)


def test_an_address_for_everybody_is_worth_a_warning(make_daemon: Callable[..., Daemon]) -> None:
    """The page has no TLS: an address that others reach is a warning. One that is taken is a fault at the start."""
    daemon = make_daemon({"admin": {"page": {"address": "0.0.0.0"}}}, start=False)
    found = [str(warning) for warning in load.warnings(load.load(daemon.config), 0)]
    assert any("the page at 0.0.0.0 is not encrypted" in each for each in found)
    daemon = make_daemon({"admin": {"page": {"port": daemon.port}}}, start=False)
    daemon.settings["admin"]["page"]["port"] = daemon.port
    daemon.write()
    with pytest.raises(InvalidConfiguration, match="is the port of an entry of listen"):
        load.load(daemon.config)
