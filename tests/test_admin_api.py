"""The admin API of a running daemon, over its socket."""

from __future__ import annotations

import grp
import json
import os
import re
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from tests.admin import Admin
from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon, ftpsd, merge
from tests.ftpclient import FtpClient, read_all
from tests.hostile import ends, open_transfer, plain_login, wait_until

SETTINGS = merge(
    PLAIN,
    {
        "admin": {"socket": "admin.sock"},
        "bans": {"allow": ["192.0.2.0/24"]},
        "state": {"directory": "state"},
        "limits": {"sessions": 50},
    },
)
USERS: dict[str, dict[str, Any]] = {
    "alice": {"quota": {"bytes": "1M"}, "limits": {"session_download_rate": 1024 * 64}},
    "bob": {"permissions": "read-only", "umask": "022", "hours": ["Mon-Sun 00:00-24:00"], "enabled": True},
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon with an admin socket, a state directory, and users with and without limits."""
    directory = tmp_path_factory.mktemp("admin")
    (directory / "state").mkdir()
    daemon = Daemon(directory, certificate, SETTINGS, USERS).start()
    (daemon.home() / "big").write_bytes(bytes(1_000_000))
    yield daemon
    daemon.stop()


@pytest.fixture
def admin(daemon: Daemon) -> Iterator[Admin]:
    """The API, without sessions and bans before and after."""
    admin = Admin(daemon.directory / "admin.sock")
    yield admin
    admin.delete("bans", all="true")
    admin.delete("sessions", address="0.0.0.0/0", now="true")
    wait_until(lambda: admin.get("sessions")["total"] == 0, "the end of all sessions")


def test_status(daemon: Daemon, admin: Admin) -> None:
    """The status tells what listens, how much of each limit is used, and how the last load went."""
    with plain_login(daemon):
        status = admin.get("status")
    assert {(each["port"], each["tls"]) for each in status["listeners"]} == {
        (daemon.port, "explicit"),
        (daemon.implicit_port, "implicit"),
    }
    assert status["sessions"] == {"used": 1, "limit": 50}
    limits = {each["name"]: each for each in status["limits"]}
    assert limits["sessions_per_user"] == {"name": "sessions_per_user", "used": 1, "limit": None}
    assert 0 < limits["open_files"]["used"] < limits["open_files"]["limit"]
    assert status["bans"] == 0
    assert status["certificate"]["file"] == str(daemon.certificate)
    assert datetime.fromisoformat(status["certificate"]["expires"]) > datetime.now(UTC)
    assert status["reload"]["ok"] is True
    assert status["passive_ports"] == {
        "first": daemon.passive[0],
        "last": daemon.passive[1],
        "used": 0,
        "shared": False,
    }
    assert status["threads"]["size"] > 0
    assert status["threads"]["stuck"] == 0
    assert status["uptime"] < 300


def test_a_session_and_its_transfer(daemon: Daemon, admin: Admin) -> None:
    """A session shows who it is, and how far and how fast its transfer is; null is what is not known."""
    with plain_login(daemon, "bob") as idle, plain_login(daemon) as client:
        idle.command("CLNT lftp/4.9.2")
        client.command("TYPE I")
        data = open_transfer(client, "RETR big")
        wait_until(lambda: (admin.get("transfers")["transfers"] or [{"bytes": 0}])[0]["bytes"] > 0, "the first byte")
        bob, alice = admin.get("sessions")["sessions"]
        assert alice["direction"] == "download"
        assert (alice["user"], alice["path"], alice["command"], alice["size"]) == ("alice", "/big", "RETR", 1_000_000)
        assert 0 < alice["bytes"] < 1_000_000
        assert alice["rate"] > 0
        assert (alice["state"], alice["idle"], alice["tls"], alice["client"]) == ("transfer", None, None, None)
        started = datetime.fromisoformat(bob.pop("since"))
        assert abs((datetime.now(UTC) - started).total_seconds()) < 60
        assert 0 <= bob.pop("idle") < 60
        assert bob == {
            "number": bob["number"],
            "user": "bob",
            "address": "127.0.0.1",
            "tls": None,
            "certificate": None,
            "client": "lftp/4.9.2",
            "command": "CLNT",
            "path": None,
            "direction": None,
            "bytes": None,
            "size": None,
            "rate": None,
            "state": "idle",
        }
        assert [each["number"] for each in admin.get("transfers")["transfers"]] == [alice["number"]]
        assert admin.get("status")["transfers"]["downloads"] == 1
        assert admin.get(f"sessions/{bob['number']}")["user"] == "bob"
        data.close()


def test_sessions_are_filtered_sorted_and_paged(daemon: Daemon, admin: Admin) -> None:
    """A list has the sessions that match, in the order of a member, and how many there are on all its pages."""
    with plain_login(daemon, "bob"), plain_login(daemon), FtpClient(daemon), plain_login(daemon, "bob"):

        def users(**query: Any) -> list[str | None]:
            return [each["user"] for each in admin.get("sessions", **query)["sessions"]]

        assert users() == ["bob", "alice", None, "bob"]
        assert users(user="bob") == ["bob", "bob"]
        assert users(state="login") == [None]
        assert users(address="127.0.0.0/8", user="alice") == ["alice"]
        assert users(address="::1") == []
        assert users(sort="user") == ["alice", "bob", "bob", None]
        assert users(sort="-user") == ["bob", "bob", "alice", None]
        assert users(sort="-number", offset=1, limit=2) == [None, "alice"]
        assert admin.get("sessions", limit=0) == {"sessions": [], "total": 4}


def test_dismissal(daemon: Daemon, admin: Admin) -> None:
    """An idle session ends with the message at once, a transfer may finish, and `now` cuts it."""
    with plain_login(daemon, "bob") as idle, plain_login(daemon) as client, plain_login(daemon) as other:
        number = admin.get("sessions", user="bob")["sessions"][0]["number"]
        assert admin.delete(f"sessions/{number}", message="Maintenance at noon.") == {"dismissed": 1}
        assert ends(idle).startswith("421 Maintenance at noon.")
        assert admin.delete(f"sessions/{number}", status=404)["detail"].startswith("There is no such session")
        transfers = []
        for each in (client, other):
            each.command("TYPE I")
            transfers.append(open_transfer(each, "RETR big"))
        wait_until(lambda: admin.get("transfers")["total"] == 2, "both transfers")
        first, second = (each["number"] for each in admin.get("transfers")["transfers"])
        admin.delete(f"sessions/{first}")
        assert admin.delete("sessions", user="alice", now="true") == {"dismissed": 2}
        for each, data in zip((client, other), transfers, strict=True):
            assert "421 Session closed by the administrator." in ends(each)
            data.close()
        assert second > first
    assert f"root: kick session {number}\n" in daemon.log
    assert "root: kick user alice\n" in daemon.log


def test_a_dismissed_session_may_finish_its_transfer(daemon: Daemon, admin: Admin) -> None:
    """Without `now`, a running upload is complete before the 421."""
    with plain_login(daemon) as client:
        client.command("TYPE I")
        client.command("ALLO 23")
        data = open_transfer(client, "STOR new")
        data.sendall(b"first half, ")
        wait_until(lambda: (admin.get("transfers")["transfers"] or [{"bytes": 0}])[0]["bytes"] == 12, "the first half")
        (shown,) = admin.get("transfers")["transfers"]
        assert (shown["direction"], shown["size"], shown["path"]) == ("upload", 23, "/new")
        assert admin.delete("sessions", address="127.0.0.1") == {"dismissed": 1}
        data.sendall(b"second half")
        data.close()
        text = ends(client)
        assert re.search(r"^226 .*\n421 Session closed", text, re.MULTILINE), text
    assert (daemon.home() / "new").read_bytes() == b"first half, second half"


def test_ban_of_a_network(daemon: Daemon, admin: Admin) -> None:
    """A banned network gets no session, whatever its length, until the ban is lifted; other clients do."""
    for network in ("127.0.0.0/8", "127.0.0.1", "::ffff:127.0.0.0/104", "0.0.0.0/0"):
        made = admin.post("bans", {"address": network, "seconds": 60}, 201)
        assert (made["kind"], made["until"] > time.time()) == ("network", True)
        with FtpClient(daemon, greeting=False) as client:
            assert ends(client).startswith("421 Your address is banned by the administrator.")
        assert admin.delete("bans", address=network) == {"lifted": 1}
    for network in ("127.0.0.2/31", "::/0", "2001:db8::/32"):
        assert admin.post("bans", {"address": network}, 201)["until"] is None
    plain_login(daemon).socket.close()
    assert len(admin.get("bans")["bans"]) == 3
    assert admin.delete("bans", address="2001:db8::1") == {"lifted": 0}
    assert admin.delete("bans", address="::/0") == {"lifted": 2}


def test_ban_of_a_user(daemon: Daemon, admin: Admin) -> None:
    """A banned user cannot log in from anywhere, even with the right password and from a known address."""
    plain_login(daemon, "bob").socket.close()
    made = admin.post("bans", {"user": "bob", "seconds": None}, 201)
    assert made == {"kind": "account", "subject": "bob", "until": None}
    assert admin.get("users/bob")["bans"] == [made]
    with FtpClient(daemon) as client:
        client.command("USER bob")
        assert client.command("PASS secret") == "530 Logins with this name are blocked by the administrator."
    plain_login(daemon).socket.close()
    assert admin.delete("bans", user="bob") == {"lifted": 1}
    plain_login(daemon, "bob").socket.close()


def test_bans_survive_a_restart(daemon: Daemon, admin: Admin) -> None:
    """Bans of an administrator survive a restart, and those that were lifted do not come back."""
    admin.post("bans", {"address": "198.51.100.0/24"}, 201)
    admin.post("bans", {"user": "bob", "seconds": 3600}, 201)
    admin.post("bans", {"address": "203.0.113.9"}, 201)
    admin.delete("bans", address="203.0.113.9")
    before = admin.get("bans")["bans"]
    assert [each["subject"] for each in before] == ["bob", "198.51.100.0/24"]
    time.sleep(0.1)
    daemon.stop()
    listed = subprocess.run(
        ftpsd("bans", "--json", "-c", str(daemon.config)), capture_output=True, check=True, text=True
    )
    assert [(each["subject"], each["until"]) for each in json.loads(listed.stdout)][1] == ("198.51.100.0/24", None)
    daemon.start()
    after = admin.get("bans")["bans"]
    assert [each["subject"] for each in after] == ["bob", "198.51.100.0/24"]
    assert abs(after[0]["until"] - before[0]["until"]) < 2
    assert after[1]["until"] is None


def test_users(admin: Admin) -> None:
    """Users show their settings with the defaults worked in, what they use, and no hash."""
    listed = admin.get("users")
    assert listed["total"] == 2
    alice, bob = sorted(listed["users"], key=lambda user: str(user["name"]))
    assert admin.get("users/alice") == alice
    assert "$5$" not in str(listed)
    assert "password" not in alice["settings"]
    assert alice["quota"] == {"bytes": 1 << 20, "files": None}
    assert alice["settings"]["limits"]["session_download_rate"] == 65536
    assert alice["settings"]["tls"] == {"data_session": "require", "close_notify": "require"}
    assert bob["settings"]["permissions"] == ["download", "list"]
    assert (bob["settings"]["umask"], bob["settings"]["hours"]) == ("022", ["Mon-Sun 00:00-24:00"])
    assert admin.get("users", limit=1, offset=5) == {"users": [], "total": 2}
    assert admin.call("GET", "users/nobody").status == 404


def test_usage_of_a_quota(daemon: Daemon, admin: Admin) -> None:
    """A home with a quota shows what it holds, once it was counted."""
    with plain_login(daemon):
        wait_until(lambda: admin.get("users/alice")["usage"] is not None, "the count")
        usage, sessions = admin.get("users/alice")["usage"], admin.get("users/alice")["sessions"]
    assert usage["bytes"] >= 1_000_000
    assert sessions == 1
    assert admin.get("users/bob")["usage"] is None


def test_reload(daemon: Daemon, admin: Admin) -> None:
    """A reload answers when it is done: with the warnings, or with every fault and its line."""
    assert admin.post("reload", {})["ok"] is True
    good = daemon.config.read_text()
    daemon.config.write_text(good + "nonsense: 1\n")
    try:
        problem = admin.post("reload", {}, 422)
        line = len(good.splitlines()) + 1
        assert any(f"ftpsd.yaml:{line}: nonsense" in fault for fault in problem["faults"]), problem
        status = admin.get("status")["reload"]
        assert (status["ok"], status["faults"]) == (False, problem["faults"])
        assert status["last_good"] < status["time"]
    finally:
        daemon.config.write_text(good)
    assert admin.post("reload", {})["ok"] is True
    assert admin.get("status")["reload"]["ok"] is True


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "said"),
    [
        ("GET", "/v1/nothing", None, 404, "openapi.json"),
        ("GET", "/v1/status/", None, 404, "openapi.json"),
        ("GET", "/", None, 404, "openapi.json"),
        ("PUT", "/v1/status", None, 405, "Use GET, HEAD."),
        ("PATCH", "/v1/bans", None, 405, "Use GET, HEAD, POST, DELETE."),
        ("GET", "/v1/sessions?sorts=user", None, 400, "Did you mean sort?"),
        ("GET", "/v1/sessions?user=a&user=b", None, 400, "Write it once"),
        ("GET", "/v1/sessions?limit=-1", None, 400, "from 0 to"),
        ("GET", "/v1/sessions?limit=%D9%A1", None, 400, "from 0 to"),
        ("GET", "/v1/sessions?state=sleeping", None, 400, "Write one of: closing"),
        ("GET", "/v1/sessions?address=192.0.2.1/24", None, 400, "Write 192.0.2.0/24"),
        ("GET", "/v1/sessions?address=%FF", None, 400, "such as 192.0.2.7"),
        ("GET", "/v1/sessions/x", None, 404, "no such session"),
        ("GET", "/v1/users/%FF%00", None, 404, "no user"),
        ("DELETE", "/v1/sessions", None, 400, "user and address are missing"),
        ("DELETE", "/v1/sessions?user=a&now=yes", None, 400, "true or false"),
        ("DELETE", "/v1/sessions?user=a&message=a%0d%0ab", None, 400, "printable"),
        ("DELETE", "/v1/bans", None, 400, "address and user are missing. Write one of them, or all=true."),
        ("DELETE", "/v1/bans?all=true&user=bob", None, 400, "all is given with an address or a user"),
        ("DELETE", "/v1/bans?all=true&address=192.0.2.7", None, 400, "all is given with an address or a user"),
        ("POST", "/v1/bans", b"{", 400, "not JSON"),
        ("POST", "/v1/bans", b"[" * 20_000, 400, "not JSON"),
        ("POST", "/v1/bans", b'"text"', 400, "no JSON object"),
        ("POST", "/v1/bans", b'{"user": "a", "user": "b"}', 400, "given twice"),
        ("POST", "/v1/bans", b"{}", 400, "address or user must be given"),
        ("POST", "/v1/bans", b'{"adress": "192.0.2.1"}', 400, "Did you mean address?"),
        ("POST", "/v1/bans", b'{"address": "192.0.2.300"}', 400, "such as 192.0.2.7"),
        ("POST", "/v1/bans", b'{"user": "a", "seconds": NaN}', 400, "not JSON"),
        ("POST", "/v1/bans", b'{"user": "a", "seconds": 1e999}', 400, "or null"),
        ("POST", "/v1/bans", b'{"user": "a", "seconds": true}', 400, "or null"),
        ("POST", "/v1/bans", b'{"user": "a", "seconds": 0}', 400, "or null"),
        ("POST", "/v1/bans", b'{"address": "192.0.2.7"}', 409, "bans.allow has 192.0.2.0/24"),
    ],
)
def test_bad_requests(admin: Admin, method: str, target: str, body: bytes | None, status: int, said: str) -> None:
    """Each request that cannot be served gets a problem that says what is wrong and what helps."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(admin.path))
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body is not None else ""
    connection.sendall(f"{method} {target} HTTP/1.1\r\nHost: h\r\n{length}\r\n".encode() + (body or b""))
    answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    assert answer.startswith(f"HTTP/1.1 {status} "), answer
    assert "application/problem+json" in answer
    assert said in answer.replace('\\"', '"'), answer
    assert (status == 405) == ("\r\nAllow: GET, HEAD" in answer)


def test_a_body_must_be_json_and_small(admin: Admin) -> None:
    """A form, which a page of the web could send, is refused, and so is a body without bounds."""
    for header, status in (
        ("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 2", 415),
        ("Content-Type: application/json\r\nContent-Length: 999999999", 413),
        ("Content-Type: application/json\r\nTransfer-Encoding: chunked", 413),
    ):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(admin.path))
        connection.sendall(f"POST /v1/bans HTTP/1.1\r\nHost: h\r\n{header}\r\n\r\n{{}}".encode())
        answer = read_all(connection)
        assert f"HTTP/1.1 {status} ".encode() in answer and b"application/problem+json" in answer
        connection.close()


#: Requests that cannot be read.
MALFORMED = [
    (b"nonsense\r\n\r\n", 400),
    (b"GET /v1/status\r\n\r\n", 400),
    (b"GET /v1/status HTTP/1.1\r\nno header\r\n\r\n", 400),
    (b"GET /v1/status HTTP/1.1\r\n" + b"X: y\r\n" * 100, 400),
    (b"GET /v1/status HTTP/1.1\r\nX: " + b"y" * 20_000, 400),
    (b"GET /v1/status?user=" + b"y" * 9000 + b" HTTP/1.1\r\n", 414),
    (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
]


@pytest.mark.parametrize(("request_", "status"), MALFORMED, ids=lambda value: repr(value)[:40])
def test_malformed_requests_are_problems(admin: Admin, request_: bytes, status: int) -> None:
    """A request that cannot be read is answered as RFC 9457 says, like any other that is refused."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(admin.path))
        connection.settimeout(20)
        connection.sendall(request_)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), head
    assert b"\r\nContent-Type: application/problem+json\r\n" in head
    problem = json.loads(body)
    assert (problem["status"], problem["type"]) == (status, "about:blank") and problem["detail"].endswith(".")


def test_clients_that_send_nothing_keep_nobody_out(admin: Admin) -> None:
    """However many connections are open and silent, a request is answered; a line without an end is refused."""
    silent = []
    for _ in range(100):
        silent.append(socket.socket(socket.AF_UNIX))
        silent[-1].connect(str(admin.path))
    assert admin.get("status")["bans"] == 0
    silent[-1].sendall(b"GET /" + b"a" * 20_000)
    assert silent[-1].recv(1000).startswith(b"HTTP/1.1 414 ")
    for each in silent:
        each.close()


# --- who may use it ------------------------------------------------------------------------------


def ask_as(path: Path, group: int) -> str:
    """Return the first line of the answer to another user of the system, who is in one other group."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([group])
            os.setgid(65534)
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(b"GET /v1/status HTTP/1.1\r\nHost: h\r\n\r\n")
                os.write(writer, connection.recv(65536).partition(b"\r\n")[0])
        except OSError as error:
            os.write(writer, (error.strerror or "").encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader) as pipe:
        return pipe.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_only_members_of_the_group_may_use_it(certificate: Path) -> None:
    """The kernel lets root and the group connect; should anyone else get through, the daemon refuses."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        group = grp.getgrnam("games")
        daemon = Daemon(Path(name), certificate, {"admin": {"socket": "admin.sock", "group": "games"}}).start()
        try:
            path = Path(name, "admin.sock")
            status = path.stat()
            assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, group.gr_gid)
            assert ask_as(path, group.gr_gid) == "HTTP/1.1 200 OK"
            assert ask_as(path, 65533) == "Permission denied"
            path.chmod(0o666)
            assert ask_as(path, 65533) == "HTTP/1.1 403 Forbidden"
            assert re.search(r"admin API: process \d+ of nobody has connected", daemon.log)
        finally:
            daemon.stop()
        assert not path.exists()


# --- the socket ----------------------------------------------------------------------------------


def failed_start(daemon: Daemon) -> str:
    """Start a daemon that ends immediately; return what it said."""
    daemon.start()
    assert daemon.process is not None
    assert daemon.process.wait(PATIENCE) != 0
    return daemon.log


def test_a_stale_socket_is_replaced(daemon: Daemon, admin: Admin) -> None:
    """The socket of a daemon that was killed does not keep the next one from its place."""
    os.kill(daemon.pid, 9)
    assert daemon.process is not None
    daemon.process.wait()
    assert admin.path.exists()
    daemon.start()
    assert admin.get("status")["sessions"]["used"] == 0


def test_the_socket_of_a_living_daemon_is_kept(daemon: Daemon, admin: Admin, certificate: Path, tmp_path: Path) -> None:
    """A second daemon with the same socket does not start, and says why; the first one still answers."""
    second = Daemon(tmp_path, certificate, {"admin": {"socket": str(admin.path)}})
    assert f"admin.socket: another process listens on {admin.path}. Stop the other daemon" in failed_start(second)
    admin.get("status")
    occupied = tmp_path / "a file"
    occupied.write_text("precious")
    second.settings["admin"] = {"socket": str(occupied)}
    second.write()
    assert "is not a socket. Choose another path" in failed_start(second)
    assert occupied.read_text() == "precious"


def test_faults_of_the_settings(daemon: Daemon) -> None:
    """A socket that cannot be made, and a group that is not there, are faults with a remedy."""
    good = daemon.config.read_text()
    try:
        for section, said in (
            ({"socket": "x" * 200}, "too long for a socket. Choose a path of at most 107 bytes"),
            ({"socket": "/nowhere/at/all/admin.sock"}, "install -d -m 0750 /nowhere/at/all"),
            ({"group": "no-such-group"}, "addgroup --system no-such-group"),
        ):
            daemon.settings["admin"] = section
            daemon.write()
            with pytest.raises(InvalidConfiguration) as raised:
                load.load(daemon.config)
            assert said in str(raised.value)
            assert "ftpsd.yaml:2: admin." in str(raised.value)
    finally:
        daemon.config.write_text(good)
