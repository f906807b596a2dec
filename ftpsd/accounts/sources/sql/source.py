"""The source of users in SQL: SqlUsers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator, Sequence
from threading import Event

from ftpsd.accounts.sources.source import Answer, Question, Secrets, SourceFailed, UnusableSettings
from ftpsd.accounts.sources.sql import statements
from ftpsd.accounts.sources.sql.database import Connection, Database, MissingTable, Pool, Result
from ftpsd.accounts.sources.sql.records import record
from ftpsd.accounts.sources.sql.schema import FIND, NAMES, VERSION_COLUMN, check_version
from ftpsd.accounts.sources.sql.sqlite import SqliteFile
from ftpsd.config.sections.sources import SqlSource

#: Rows of `find` that are fetched. A second one is a failure already, and a careless LIKE finds the whole table.
_MOST = 2

#: A name that nobody has, to try the statements with.
_NOBODY = " "


def make(settings: SqlSource, secrets: Secrets) -> SqlUsers:
    """Return the source of an entry of `users.sources`. Raises UnusableSettings."""
    if settings.find is not None:
        statements.check("find", settings.find, takes_name=True)
    if settings.names is not None:
        statements.check("names", settings.names, takes_name=False)
        if settings.find is None:
            raise UnusableSettings(
                "names", "needs find", "Remove it: the tables of ftpsd list their users by themselves."
            )
    return SqlUsers(settings, open_database(settings, secrets))


def open_database(settings: SqlSource, secrets: Secrets) -> Database:
    """Return the database of an entry; connect to nothing. Raises UnusableSettings."""
    if settings.file is not None:
        if not settings.file.is_absolute() or "\0" in str(settings.file):
            raise UnusableSettings(
                "url", "does not name an absolute path", "Write it as sqlite:/var/lib/ftpsd-users/users.sqlite."
            )
        return SqliteFile(settings.file)
    if not settings.url.startswith(("postgresql:", "postgres:")):
        remedy = "Write it as postgresql://ftpsd@db.example.com/ftpsd, or sqlite:/var/lib/ftpsd-users/users.sqlite."
        raise UnusableSettings("url", "names no supported database", remedy)
    try:
        from ftpsd.accounts.sources.sql.postgresql import PostgreSql
    except ImportError as error:
        remedy = "Install it: pip install 'ftpsd[sql]', or apt install python3-psycopg."
        raise UnusableSettings(
            "url", f"needs the Python module psycopg, which cannot be imported ({error})", remedy
        ) from None
    password = None if settings.password_file is None else secrets[settings.password_file]
    return PostgreSql(settings.url, password, settings.ca_file)


class SqlUsers:
    """Users in the tables of `schema`, or in others that `find` reads."""

    kind = "sql"

    def __init__(self, settings: SqlSource, database: Database) -> None:
        self.concurrency = settings.concurrency
        self.timeout = float(settings.timeout)
        self._is_own = settings.find is None
        self._find = settings.find or FIND
        self._names = NAMES if self._is_own else settings.names
        self._database = database
        self._pool = Pool(database, self.timeout)
        self._closed = Event()

    def ask(self, question: Question) -> Answer | None:
        """Return the user of a name. The password is verified by the caller, against the hash."""
        try:
            question.name.encode()
        except UnicodeEncodeError:
            return None  # what is not UTF-8 is in no database
        if "\0" in question.name:
            return None
        result = self._run(question.name)
        rows = self._users(result)
        if len(rows) > 1:
            raise SourceFailed("find returned more than one row for one name")
        if not rows:
            return None
        values = record(rows[0])
        name = values.pop("name", None)
        if not isinstance(name, str) or not name:
            raise SourceFailed("the row of a user has no name: find must return the column name, as the table has it")
        return Answer(name, values, verified=False)

    def _run(self, name: str) -> Result:
        try:
            return self._pool.call(lambda connection: connection.run(self._find, {"name": name}, _MOST))
        except MissingTable:
            if not self._is_own:
                raise
            raise SourceFailed("the database has no tables of ftpsd: run `ftpsd sql init`") from None

    def _users(self, result: Result) -> Sequence[dict[str, object]]:
        """Return the rows of users. In our own tables, there is a row with the version if there is no user."""
        rows = result.mappings()
        if not self._is_own or not result.columns:
            return rows
        check_version(rows[0][VERSION_COLUMN] if rows else None)
        users = [row for row in rows if row["name"] is not None]
        for row in users:
            del row[VERSION_COLUMN]
        return users

    def names(self) -> Iterator[str]:
        """Iterate over the names of all users. Raises SourceFailed without a statement that lists them."""
        statement = self._names
        if statement is None:
            raise SourceFailed("the source cannot list its users: set names, as SELECT name FROM accounts")

        def run(connection: Connection) -> Result:
            return connection.run(statement)

        for row in self._pool.call(run).rows:
            if not isinstance(row[0], str):
                raise SourceFailed("the first column of names must be a text")
            yield row[0]

    def probe(self) -> None:
        """Look up a name that nobody has, and look at the columns of the answer."""
        result = self._run(_NOBODY)
        self._users(result)
        if "name" not in result.columns:
            raise SourceFailed("find must return the column name, as the table has it")

    def listen(self, changed: Callable[[Collection[str]], None]) -> None:
        """Call `changed` with the names of users who have changed, until the source is closed. SQLite tells nothing."""
        if self._database.dialect == "postgresql":
            notifications = importlib.import_module("ftpsd.accounts.sources.sql.notifications")
            notifications.listen(self._database, self.timeout, changed, self._closed)

    def close(self) -> None:
        """Close all connections."""
        self._closed.set()
        self._pool.close()
