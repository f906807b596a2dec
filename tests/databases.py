"""Databases for users, empty for each test: in a PostgreSQL server and in a file of SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ftpsd.accounts.sources.deadline import Deadline
from ftpsd.accounts.sources.sql import schema, users
from ftpsd.accounts.sources.sql.source import SqlUsers, make, open_database
from ftpsd.config.sections.sources import SqlSource
from tests.postgresql import PostgresqlServer, requires_postgresql


class Database:
    """A database with the tables of ftpsd, or with other ones."""

    def __init__(self, url: str, execute: Callable[..., object]) -> None:
        self.url = url
        self.execute = execute

    def source(self, **settings: Any) -> SqlUsers:
        """Return a source with settings of its own."""
        return make(SqlSource(url=self.url, **settings), {})

    def migrate(self) -> tuple[int, int]:
        """Make our tables, or bring them to the current version."""
        return self.call(
            lambda connection: schema.migrate(connection, "sqlite" if "sqlite" in self.url else "postgresql")
        )

    def put(self, name: str, **values: Any) -> None:
        """Add or change a user in our tables."""
        self.call(lambda connection: users.put(connection, name, values, users.get(connection, name) is None))

    def call(self, work: Callable[[Any], Any]) -> Any:
        """Call a function with a connection that may write."""
        connection = open_database(SqlSource(url=self.url), {}).connect(Deadline(30), writable=True)
        try:
            return work(connection)
        finally:
            connection.close()


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresqlServer]:
    """A server for all tests that do not stop it."""
    server = PostgresqlServer().start()
    yield server
    server.remove()


@pytest.fixture
def own_server() -> Iterator[PostgresqlServer]:
    """A server for one test."""
    server = PostgresqlServer().start()
    yield server
    server.remove()


def postgresql(server: PostgresqlServer) -> Database:
    """Return an empty database of a server."""
    server.sql("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return Database(server.url, server.sql)


def sqlite(path: Path) -> Database:
    """Return an empty database in a file."""

    def execute(*statements: str) -> None:
        with closing(sqlite3.connect(path, timeout=10)) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    execute()
    path.touch()
    return Database(f"sqlite:{path}", execute)


@pytest.fixture(params=[pytest.param("postgresql", marks=requires_postgresql), "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Return one empty database after the other."""
    if request.param == "sqlite":
        return sqlite(tmp_path / "users.sqlite")
    return postgresql(request.getfixturevalue("server"))
