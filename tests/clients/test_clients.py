"""Real clients carry out a whole session: directory, upload, listing, download, a resumed download, a new name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.session import run, wrong
from tests.clients.table import CLIENTS, NEEDS, PLAIN_CLIENTS, Client
from tests.daemon import Daemon

DOCUMENT = Path(__file__).parents[2] / "docs/clients.md"

#: The account of each row of NEEDS.
ACCOUNTS = dict(zip(NEEDS, ("alice", "bob", "carol"), strict=True))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon with an account for each kind of client."""
    users = {ACCOUNTS[needs]: {"tls": settings} for needs, settings in NEEDS.items()}
    daemon = Daemon(tmp_path_factory.mktemp("clients"), certificate, users=users).start()
    yield daemon
    daemon.stop()


def rows(clients: list[Client]) -> list[object]:
    """The clients as parameters; those that are large to install have a marker."""
    return [
        pytest.param(client, mode, version, id=f"{client.name}, {mode}, TLS {version}", marks=marks(client))
        for client in clients
        for mode in client.modes
        for version in client.versions
    ]


def marks(client: Client) -> list[pytest.MarkDecorator]:
    """The marker `client` for those that CI runs once."""
    return [pytest.mark.client] if client.heavy else []


def must_be_here(client: Client) -> None:
    """Skip if the client is not installed."""
    if client.missing():
        pytest.skip(client.missing())


@pytest.mark.parametrize(("client", "mode", "version"), rows(CLIENTS))
def test_client(daemon: Daemon, client: Client, mode: str, version: str, tmp_path: Path) -> None:
    """With the settings of docs/clients.md, the client's whole session succeeds."""
    must_be_here(client)
    user = ACCOUNTS[client.needs]
    done = run(client, daemon, user, tmp_path, mode, version)
    assert done.returncode == 0 and "done" in done.stdout.splitlines(), done.stdout
    assert not wrong(client, daemon.home(user), tmp_path / "local"), done.stdout


@pytest.mark.parametrize(
    "client", [pytest.param(each, id=each.name, marks=marks(each)) for each in CLIENTS if each.needs]
)
def test_client_needs_its_settings(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    """With the settings that protect most, or with one step less than docs/clients.md says, the client fails."""
    must_be_here(client)
    less = list(NEEDS)[list(NEEDS).index(client.needs) - 1]
    user = ACCOUNTS[less]
    done = run(client, daemon, user, tmp_path, client.modes[0], client.versions[-1])
    assert "done" not in done.stdout.splitlines() or wrong(client, daemon.home(user), tmp_path / "local")


@pytest.mark.client
def test_go_needs_the_name_of_the_server(daemon: Daemon, tmp_path: Path) -> None:
    """Without `ServerName`, Go resumes no session although it has a cache, and the reply names the setting."""
    (client,) = (each for each in CLIENTS if each.name == "jlaffaye/ftp (Go) with a session cache, newer releases")
    must_be_here(client)
    done = run(client._replace(options=(*client.options, "nameless")), daemon, "alice", tmp_path)
    assert "done" not in done.stdout.splitlines() and "522" in done.stdout and "data_session" in done.stdout


@pytest.mark.parametrize("client", PLAIN_CLIENTS, ids=lambda client: client.name)
def test_plain_client(plain: Daemon, client: Client, tmp_path: Path) -> None:
    """Clients without TLS succeed where the server does not require it."""
    must_be_here(client)
    done = run(client, plain, "alice", tmp_path)
    assert done.returncode == 0 and "done" in done.stdout, done.stdout
    assert not wrong(client, plain.home(), tmp_path / "local"), done.stdout


def test_clients_are_documented() -> None:
    """docs/clients.md has a row for each client that the tests run, with what its account needs, and no other."""
    section = DOCUMENT.read_text().split("## Tested clients")[1].split("\n## ")[0]
    documented = dict(re.findall(r"^\| ([^|`]+) \| [^|]* \| ?([^|]*?) ?\|", section, re.MULTILINE))
    del documented["client"], documented["---"]
    elsewhere = {
        "FileZilla": "",  # test_filezilla.py
        "Apache Commons Net": "`data_session: allow`",  # test_java.py
        "Apache Commons Net with the subclass below": "",
    }
    assert documented == {client.name: client.needs for client in CLIENTS} | elsewhere
    for client in PLAIN_CLIENTS:
        assert client.name in section
