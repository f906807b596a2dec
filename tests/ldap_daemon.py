"""A daemon whose users are in a directory, for tests: the entries, the settings, and logins over FTP."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import yaml

from tests.authority import make_chain
from tests.daemon import EACH_WORKER, PATIENCE, Daemon
from tests.ftpclient import FtpClient
from tests.slapd import GROUPS, PEOPLE, SERVICE_PASSWORD, Slapd, entry, person

ROOT = Path(__file__).parents[1]

#: The people of the directory, in the form in which it stores their names. All but dora may use FTP.
NAMES = ("Anna", "berta", "carl", "dora", "ended")


def make_server(directory: Path, **certificate: Any) -> Slapd:
    """Return a server that runs, with people and groups. `certificate` is for `make_chain`."""
    tls = directory / "tls"
    tls.mkdir(parents=True)
    make_chain(tls, **certificate)
    people = [person(name, description="1M", **({"shadowExpire": "10"} if name == "ended" else {})) for name in NAMES]
    groups = [
        entry(
            f"cn=team,{GROUPS}", "groupOfNames", cn="team",
            member=[f"uid={name},{PEOPLE}" for name in NAMES if name != "dora"],
        ),
        entry(f"cn=ftp-users,{GROUPS}", "groupOfNames", cn="ftp-users", member=[f"cn=team,{GROUPS}"]),
    ]  # fmt: skip
    slapd = Slapd(directory / "slapd", tls, "".join(people)).start()
    slapd.modify("".join(groups), "-a")
    return slapd


def example(slapd: Slapd, directory: Path, **changes: Any) -> dict[str, Any]:
    """Return settings with the source of the first example in docs/users-ldap.md. Make the homes below a directory."""
    password = directory / "password"
    password.write_text(SERVICE_PASSWORD + "\n")
    password.chmod(0o640)
    text = (ROOT / "docs/users-ldap.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    source = yaml.safe_load(re.sub("(?m)^   ", "", text))["users"]["sources"][0]
    source |= {"servers": [slapd.tls_url], "ca_file": str(slapd.ca), "password_file": str(password)}
    source["values"]["home"] = str(directory / "ftp" / "{user}")
    for name in NAMES:
        (directory / "ftp" / name).mkdir(parents=True, exist_ok=True)
    return {
        "users": {"sources": [source | changes], "cache": {"seconds": 0, "stale_seconds": 0}},
        "sandbox": {"homes": [str(directory / "ftp")]},
        "bans": {"attempts": 4, "allow": []},
    }


def log_in(daemon: Daemon, name: str | bytes, password: str = "secret", source: str | None = None) -> str:
    """Return the reply to a login from an address of this machine."""
    with FtpClient(daemon, source=source) as client:
        client.start_tls()
        client.command(b"USER " + (name if isinstance(name, bytes) else name.encode()))
        return client.command(f"PASS {password}")


def wait_for_login(daemon: Daemon, name: str, password: str = "secret") -> None:
    """Wait until a user can log in to each worker: each probes a source that is down every two seconds."""
    deadline = time.monotonic() + PATIENCE
    for _ in range(EACH_WORKER):
        while not (reply := log_in(daemon, name, password)).startswith("230 "):
            assert reply.startswith("451 ") and time.monotonic() < deadline, reply
            time.sleep(0.1)
