"""Each source of users with a real server that knows Alice and Bob, for the tests that every source must pass."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftpsd.accounts.sources import helper, http
from ftpsd.accounts.sources.deadline import Deadline
from ftpsd.accounts.sources.source import Source
from ftpsd.accounts.sources.sql import source as sql
from ftpsd.accounts.sources.sql import users as sql_users
from ftpsd.accounts.sources.sql.schema import migrate
from ftpsd.config.convert import structure
from ftpsd.config.sections.sources import HelperSource, HttpSource, LdapSource, SqlSource
from ftpsd.config.yaml import Document
from tests.authority import make_chain
from tests.daemon import SECRET
from tests.file_source import FileSource, UserFile
from tests.http_users import UserServer, users
from tests.postgresql import PostgresqlServer, requires_postgresql
from tests.slapd import PEOPLE, SERVICE, SERVICE_PASSWORD, Slapd, person

#: The password of the service account, wherever there is one. It must not be in any error.
PASSWORDS = (SERVICE_PASSWORD, "secret")

NAMES = ("alice", "bob")


class Running:
    """A source, and its server, which `stop` takes away and `start` brings back."""

    def __init__(
        self, source: Source, stop: Callable[[], object], start: Callable[[], object], looks_up: bool = True
    ) -> None:
        self.source = source
        self.stop = stop
        self.start = start
        #: Whether it finds a user without the password.
        self.looks_up = looks_up


def values(name: str) -> dict[str, object]:
    """Return the keys of a user."""
    return {"home": f"homes/{name}", "permissions": "read-only"}


def in_file(directory: Path) -> Iterator[Running]:
    """The source of the tests."""
    file = UserFile(directory / "users.json", **{name: {"plain": "secret", **values(name)} for name in NAMES})
    yield Running(FileSource(file.path), lambda: file.write("down"), file.write)


def in_sqlite(directory: Path) -> Iterator[Running]:
    """A file of SQLite."""
    path, away = directory / "users.sqlite", directory / "away"
    path.touch()
    yield Running(_in_sql(f"sqlite:{path}"), lambda: path.rename(away), lambda: away.rename(path))


def in_postgresql(_: Path) -> Iterator[Running]:
    """A server of its own."""
    pytest.importorskip("psycopg")
    server = PostgresqlServer().start()
    try:
        yield Running(_in_sql(server.url), server.stop, server.start)
    finally:
        server.remove()


def _in_sql(url: str) -> Source:
    fill_sql(url)
    return sql.make(SqlSource(type="sql", url=url, timeout=3), {})


def fill_sql(url: str) -> None:
    """Put our tables with Alice and Bob into a database."""
    settings = SqlSource(type="sql", url=url)
    connection = sql.open_database(settings, {}).connect(Deadline(30), writable=True)
    migrate(connection, "sqlite" if "sqlite" in url else "postgresql")
    for name in NAMES:
        is_new = sql_users.get(connection, name) is None
        sql_users.put(connection, name, {"password": SECRET, **values(name)}, is_new)
    connection.close()


def in_ldap(directory: Path) -> Iterator[Running]:
    """A directory server with TLS."""
    pytest.importorskip("ldap")
    from ftpsd.accounts.sources.ldap.make import make

    make_chain(directory)
    server = Slapd(directory / "slapd", directory, "".join(person(name) for name in NAMES)).start()
    keys = {
        "type": "ldap", "servers": [server.tls_url], "ca_file": str(directory / "ca.pem"), "timeout": 3,
        "bind_dn": SERVICE, "password_file": str(directory / "password"), "base": PEOPLE,
        "values": {"home": "homes/{user}", "permissions": "read-only"},
    }  # fmt: skip
    settings = structure(Document(directory / "ftpsd.yaml", lines={(): 1}), keys, LdapSource)
    assert settings is not None
    try:
        yield Running(make(settings, {directory / "password": SERVICE_PASSWORD}), server.kill, server.start)
    finally:
        server.kill()


def in_http(directory: Path) -> Iterator[Running]:
    """A web server with TLS."""
    make_chain(directory)
    servers: list[UserServer] = []
    known = users(**{name: values(name) for name in NAMES})

    def start() -> None:
        servers.append(UserServer(known, directory, servers[0].port if servers else 0))

    def stop() -> None:
        servers[-1].__exit__()

    start()
    settings = HttpSource(type="http", url=servers[0].url, ca_file=directory / "ca.pem", timeout=3)
    try:
        yield Running(http.make(settings, {}), stop, start)
    finally:
        stop()


def helper_request(connection: socket.socket) -> bytes:
    """Return the request of a helper source with its last line; nothing if the connection ends before."""
    data = b""
    while not data.endswith(b"\nend\n"):
        piece = connection.recv(4096)
        if not piece:
            return b""
        data += piece
    return data


def serve_all(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    """Serve each connection in a thread of its own, until the listener is shut down."""

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def in_helper(directory: Path) -> Iterator[Running]:
    """A program on a socket, with the protocol of Pure-FTPd."""
    path, listeners = directory / "helper.sock", []

    def serve(connection: socket.socket) -> None:
        with connection:
            data = helper_request(connection)
            if not data:
                return
            lines = dict(line.partition(":")[::2] for line in data.decode("utf-8", "surrogateescape").splitlines())
            name = lines["account"]
            if name not in NAMES:
                connection.sendall(b"auth_ok:0\nend\n")
            elif lines.get("password") != "secret":
                connection.sendall(b"auth_ok:-1\nend\n")
            else:
                connection.sendall(f'auth_ok:1\ndir:homes/{name}\nuser:{{"permissions":"read-only"}}\nend\n'.encode())

    def start() -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(64)
        listeners.append(listener)
        serve_all(listener, serve)

    def stop() -> None:
        listeners[-1].shutdown(socket.SHUT_RDWR)
        listeners[-1].close()
        os.unlink(path)

    start()
    settings = HelperSource(type="helper", socket=path, timeout=3)
    try:
        yield Running(helper.make(settings, {}), stop, start, looks_up=False)
    finally:
        stop()


#: All sources.
SOURCES = {
    "file": pytest.param(in_file, id="file"),
    "sqlite": pytest.param(in_sqlite, id="sqlite"),
    "postgresql": pytest.param(in_postgresql, id="postgresql", marks=requires_postgresql),
    "ldap": pytest.param(in_ldap, id="ldap"),
    "http": pytest.param(in_http, id="http"),
    "helper": pytest.param(in_helper, id="helper"),
}


@contextmanager
def running(make: Callable[[Path], Iterator[Running]], directory: Path) -> Iterator[Running]:
    """Run a source until the end of the context."""
    made = make(directory)
    yield next(made)
    next(made, None)
