"""Users in a directory: a real daemon with a real slapd, and FTP clients that log in."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.authority import make_chain
from tests.daemon import PATIENCE, Daemon, ftpsd
from tests.ftpclient import FtpClient
from tests.slapd import GROUPS, PEOPLE, SERVICE_PASSWORD, Slapd, entry, person

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the certificate of a server at 127.0.0.1, and of its authority."""
    directory = tmp_path_factory.mktemp("tls")
    make_chain(directory)
    return directory


@pytest.fixture
def server(tmp_path: Path, tls: Path) -> Iterator[Slapd]:
    """A server with people, of whom some may use FTP."""
    names = ("Anna", "berta", "carl", "dora")
    people = [person(name, description="1M") for name in names]
    people.append(person("ended", shadowExpire="10"))
    members = [f"uid={name},{PEOPLE}" for name in (*names[:3], "ended")]
    groups = [
        entry(f"cn=team,{GROUPS}", "groupOfNames", cn="team", member=members),
        entry(f"cn=ftp-users,{GROUPS}", "groupOfNames", cn="ftp-users", member=[f"cn=team,{GROUPS}"]),
    ]
    slapd = Slapd(tmp_path / "slapd", tls, "".join(people)).start()
    slapd.modify("".join(groups), "-a")
    yield slapd
    slapd.kill()


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon], server: Slapd, tmp_path: Path) -> Callable[..., Daemon]:
    """Return a function that makes a daemon with the source of the first example in docs/users-ldap.md."""

    def new(start: bool = True, banning: bool = False, **changes: Any) -> Daemon:
        (tmp_path / "password").write_text(SERVICE_PASSWORD + "\n")
        (tmp_path / "password").chmod(0o640)
        example = (ROOT / "docs/users-ldap.md").read_text().partition("```yaml\n")[2].partition("```")[0]
        source = yaml.safe_load(re.sub("(?m)^   ", "", example))["users"]["sources"][0]
        source |= {"servers": [server.tls_url], "ca": str(server.ca), "password_file": str(tmp_path / "password")}
        source["values"]["home"] = str(tmp_path / "ftp" / "{user}")
        for name in ("Anna", "berta", "carl", "dora", "ended"):
            (tmp_path / "ftp" / name).mkdir(parents=True, exist_ok=True)
        settings = {
            "users": {"sources": [source | changes], "cache": {"seconds": 0, "stale_seconds": 0}},
            "sandbox": {"homes": [str(tmp_path / "ftp")]},
            "bans": {"attempts": 4, "allow": []} if banning else {},
        }
        return make_daemon(settings, start=start)

    return new


def log_in(daemon: Daemon, name: str | bytes, password: str = "secret") -> str:
    """Return the reply to a login."""
    with FtpClient(daemon) as client:
        client.start_tls()
        client.command(b"USER " + (name if isinstance(name, bytes) else name.encode()))
        return client.command(f"PASS {password}")


def test_the_example(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """With the documented example, members log in, have the keys of their entries, and the one name of the directory."""
    running = daemon()
    (tmp_path / "ftp/Anna/file").write_text("x")
    with FtpClient(running) as client:
        client.start_tls()
        client.login("ANNA", "secret")
        assert client.download("NLST") == b"file\r\n"
        assert client.command("MKD new").startswith("550 ")
    assert log_in(running, "dora").startswith("530 Login not allowed")
    assert log_in(running, "ended") == "530 Account expired."
    assert log_in(running, "berta", "wrong").startswith("530 Login incorrect")
    assert log_in(running, "nobody").startswith("530 Login incorrect")
    assert log_in(running, "berta").startswith("230 ")
    assert "Traceback" not in running.log and SERVICE_PASSWORD not in running.log


def test_a_canonical_name_for_all(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Session limits count one user, however the client writes the name; log and administration show that name."""
    running = daemon(values={"home": str(tmp_path / "ftp/{user}"), "limits": {"sessions": 1}})
    with FtpClient(running) as client:
        client.start_tls()
        client.login("anna", "secret")
        assert log_in(running, "ANNA").startswith(("421 ", "530 "))
    assert log_in(running, "Anna ").startswith("230 ")
    assert "ANNA" not in running.log


def test_hostile_names(daemon: Callable[..., Daemon]) -> None:
    """Names that mean something in filters or distinguished names are wrong names: 530, never 451 or a login."""
    running = daemon()
    names = [
        b"*",
        b"A*",
        b"*)(uid=*",
        b")(uid=*",
        b"\\2a",
        b"Anna)(|(uid=*",
        b"\xff\xfe",
        f"Anna,{PEOPLE}".encode(),
        b"#x",
        b"a" * 900,
    ]
    for name in names:
        assert log_in(running, name).startswith("530 Login incorrect"), name
    assert log_in(running, "Anna", "").startswith(("530 ", "501 "))
    assert log_in(running, "Anna").startswith("230 ")
    assert "Traceback" not in running.log


def test_bans_count_wrong_passwords_only(daemon: Callable[..., Daemon]) -> None:
    """Refused accounts and failures of the source never lead to a ban; wrong passwords and unknown names do."""
    running = daemon(banning=True)
    for _ in range(6):
        assert log_in(running, "dora").startswith("530 Login not allowed")
        assert log_in(running, "ended").startswith("530 Account expired")
    assert log_in(running, "Anna").startswith("230 ")
    for name in ("Anna", "nobody", "berta", "carl"):
        assert log_in(running, name, "wrong").startswith(("530 ", "421 "))
    with FtpClient(running, greeting=False) as client:
        assert client.reply().startswith("421 ")


def test_the_directory_is_down(daemon: Callable[..., Daemon], server: Slapd) -> None:
    """Down at the start, up, frozen, killed, and up again: 451 with a reason in the log, no ban, and logins after it."""
    server.kill()
    running = daemon(timeout=1, banning=True)
    for _ in range(6):
        assert log_in(running, "berta").startswith("451 ")
    running.wait_for_log("ldap.*Connection refused")
    server.start()
    wait_for_login(running, "berta")
    server.signal(signal.SIGSTOP)
    begun = time.monotonic()
    with FtpClient(running) as waiting:
        waiting.start_tls()
        waiting.command("USER carl")
        waiting.send("PASS secret")
        assert log_in(running, "alice").startswith("230 ")  # of users.yaml: the others' wait is not hers
        assert time.monotonic() - begun < 0.9
        assert waiting.reply().startswith("451 ")
    server.signal(signal.SIGCONT)
    wait_for_login(running, "carl")
    server.kill()
    assert log_in(running, "carl").startswith("451 ")
    server.start()
    wait_for_login(running, "carl")
    assert "Traceback" not in running.log


def wait_for_login(daemon: Daemon, name: str) -> None:
    """Wait until a user can log in: a source that is down is probed every two seconds."""
    deadline = time.monotonic() + PATIENCE
    while not (reply := log_in(daemon, name)).startswith("230 "):
        assert reply.startswith("451 ") and time.monotonic() < deadline, reply
        time.sleep(0.1)


def test_faults_name_their_keys(daemon: Callable[..., Daemon]) -> None:
    """A setting that cannot be used is a fault with its line and key, and nothing connects to the server for that."""
    for changes, words in (
        (
            {"servers": ["http://ldap.example.com"]},
            "users.sources[0].servers[0]: “http://ldap.example.com” is not the URL",
        ),
        ({"filter": "(uid={name}"}, "users.sources[0].filter: “(uid={name}” is not a filter"),
        ({"nested": "off"}, "users.sources[0].nested: unknown key"),
        ({"membership": {"nestd": "off"}}, "users.sources[0].membership.nestd: unknown key"),
        ({"password_file": "nothing"}, "nothing"),
    ):
        found = check(daemon(start=False, **changes))
        assert found.returncode == 1 and words in found.stdout + found.stderr, found
        assert re.search(r"ftpsd\.yaml:\d+: users\.sources", found.stdout + found.stderr)


def test_a_missing_library(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Without python-ldap, the fault names the packages for pip and apt."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/ldap.py").write_text("raise ImportError('No module named _ldap')\n")
    found = check(daemon(start=False), PYTHONPATH=f"{tmp_path / 'broken'}:{ROOT}")
    assert found.returncode == 1
    assert "pip install 'ftpsd[ldap]', or apt install python3-ldap" in found.stdout + found.stderr


def check(daemon: Daemon, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `ftpsd check`."""
    command = ftpsd("check", "-c", str(daemon.config))
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
