"""The tables of ftpsd in the databases that a configuration names, for commands: Table, open_tables, tables_of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from ftpsd.accounts.sources.deadline import Deadline
from ftpsd.accounts.sources.source import SourceFailed
from ftpsd.accounts.sources.sql import schema, users
from ftpsd.accounts.sources.sql.database import Connection, Database, MissingTable
from ftpsd.accounts.sources.sql.source import open_database
from ftpsd.accounts.user_store import InvalidRecord
from ftpsd.cli.failure import CommandFailed, WrongUsage
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.sections.sources import SqlSource
from ftpsd.config.sections.values import Value

#: Seconds for a command, which may wait for another one.
_PATIENCE = 60.0

#: The mode of a new file of SQLite.
_MODE = 0o640

Values = dict[str, Value]


@frozen
class Table:
    """The users in the tables of one source. Methods block, and raise CommandFailed."""

    #: The source, as `sql[0]`.
    name: str
    database: Database
    #: The file of SQLite; None for another database.
    file: Path | None
    configuration: load.Configuration

    @property
    def place(self) -> str:
        """Where the users are, for people."""
        return f"{self.name} ({self.database.place})"

    def migrate(self, create: bool) -> tuple[int, int]:
        """Bring the tables to the current version; return the old and the new one. `create`: 0 may be the old one."""
        if create and self.file is not None:
            self._create(self.file)
        with self._connected() as connection:
            before = schema.version(connection, self.database.dialect)
            if create == (before == 0):
                return schema.migrate(connection, self.database.dialect)
            if create:
                schema.check_version(before)
                return before, before
        raise CommandFailed(f"{self.place}: there are no tables to migrate: run `ftpsd sql init`")

    def values(self, name: str) -> Values | None:
        """Return the keys of a user; None if there is none of this name."""
        with self._connected() as connection:
            return users.get(connection, name)

    def names(self) -> list[str]:
        """Return the names of all users."""
        with self._connected() as connection:
            return users.names(connection)

    def change(self, name: str, edit: Callable[[Values | None], Values | None], undo: Callable[[], None]) -> None:
        """Give a user the keys that `edit` returns for the present ones; None stands for no user.

        Nothing is changed if they have a fault. `undo` undoes what `edit` has done besides.
        """
        try:
            with self._connected() as connection, schema.transaction(connection, self.database.dialect):
                if self.database.dialect == "postgresql":  # in SQLite, the transaction locks the file
                    users.lock(connection, name)
                before = users.get(connection, name)
                with _effective_user(os.getuid(), os.getgid()):
                    after = edit(before)
                if after is None:
                    users.remove(connection, name)
                else:
                    self._check(name, after)
                    users.put(connection, name, after, is_new=before is None)
        except BaseException:
            undo()
            raise

    def _check(self, name: str, values: Values) -> None:
        unknown = sorted(set(values) - set(schema.COLUMNS))
        try:
            with _effective_user(os.getuid(), os.getgid()):
                self.configuration.builder.build(name, values)
        except InvalidRecord as error:
            raise CommandFailed(f"{name}: {error} Nothing was changed") from None
        if unknown:
            raise CommandFailed(f"{self.place} has no column {unknown[0]}")

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self._as_owner():
                connection = self.database.connect(Deadline(_PATIENCE), writable=True)
                try:
                    yield connection
                finally:
                    connection.close()
        except MissingTable:
            raise CommandFailed(f"{self.place}: there are no tables of ftpsd: run `ftpsd sql init`") from None
        except SourceFailed as error:
            raise CommandFailed(f"{self.place}: {error}") from None

    @contextmanager
    def _as_owner(self) -> Iterator[None]:
        """Be the owner of the directory of SQLite's file, or of the file if that is root's.

        SQLite makes files beside it, which the daemon must be able to use. And if the owner has put a link in place of
        the file, root's permissions do not help them.
        """
        if self.file is None or os.geteuid() != 0:
            yield
            return
        try:
            owner = os.stat(self.file.parent)
            if owner.st_uid == 0 and self.file.exists():
                owner = os.lstat(self.file)
        except OSError as error:
            raise CommandFailed(f"{self.file.parent}: {(error.strerror or str(error)).lower()}") from None
        with _effective_user(owner.st_uid, owner.st_gid):
            yield

    def _create(self, file: Path) -> None:
        try:
            with self._as_owner():
                os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))
        except FileExistsError:
            pass
        except OSError as error:
            raise CommandFailed(f"{file}: {(error.strerror or str(error)).lower()}") from None


@contextmanager
def _effective_user(user: int, group: int) -> Iterator[None]:
    """Have the rights of a user. Does nothing unless root runs the command."""
    if os.getuid() != 0:
        yield
        return
    before = os.geteuid(), os.getegid()
    os.seteuid(0)
    os.setegid(group)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(before[1])
        os.seteuid(before[0])


def has_tables(configuration: str) -> bool:
    """Return whether a configuration names a database with the tables of ftpsd."""
    try:
        return any(map(_is_ours, load.load_settings(configuration).users.sources))
    except InvalidConfiguration as error:
        raise CommandFailed(str(error)) from None


def open_tables(configuration: str) -> list[Table]:
    """Return the tables of a configuration, in the order in which a login asks them. Raises CommandFailed."""
    if not has_tables(configuration):
        return []
    try:
        loaded = load.load(configuration)
    except InvalidConfiguration as error:
        raise CommandFailed(str(error)) from None
    return tables_of(loaded)


def tables_of(loaded: load.Configuration) -> list[Table]:
    """Return the tables of a configuration that is loaded, in the order in which a login asks them."""
    return [
        Table(each.name, open_database(each.settings, each.contents), each.settings.file, loaded)
        for each in loaded.sources
        if isinstance(each.settings, SqlSource) and _is_ours(each.settings)
    ]


def named(tables: Sequence[Table], source: str) -> Table:
    """Return the table of a source that is named as `sql[1]`, or as `sql` if it is the only one. Raises WrongUsage."""
    found = [each for each in tables if source in (each.name, each.name.partition("[")[0])]
    if len(found) != 1:
        known = ", ".join(each.name for each in tables) or "none: see docs/users-sql.md"
        raise WrongUsage(f"--source {source} names no source with tables of ftpsd; there is {known}")
    return found[0]


def _is_ours(settings: object) -> bool:
    return isinstance(settings, SqlSource) and settings.find is None
