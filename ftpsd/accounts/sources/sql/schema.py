"""The tables for users: how they are made and migrated, and which column holds which key.

`ftpsd_schema` has one row, with the version of the tables. `ftpsd_users` has a row for each user and a column for each
key: text, boolean, or JSON for sections and lists. NULL stands for a key that the user does not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Literal

from attrs import frozen

from ftpsd.accounts.sources.source import SourceFailed
from ftpsd.accounts.sources.sql.database import Connection

#: The keys of a user, and how the column of each holds its value.
COLUMNS: Final[Mapping[str, Literal["text", "boolean", "json"]]] = {
    "password": "text",
    "home": "text",
    "enabled": "boolean",
    "expires": "text",
    "permissions": "text",
    "paths": "json",
    "groups": "json",
    "folders": "json",
    "quota": "json",
    "limits": "json",
    "networks": "json",
    "hours": "json",
    "names": "json",
    "umask": "text",
    "tls": "json",
    "certificates": "json",
    "totp": "text",
}

#: One row for a name, with the version beside the user: so a migration cannot come between the two.
FIND = "SELECT s.version AS schema_version, u.* FROM ftpsd_schema s LEFT JOIN ftpsd_users u ON u.name = %(name)s"

NAMES = "SELECT name FROM ftpsd_users ORDER BY name"

#: The column of FIND with the version.
VERSION_COLUMN = "schema_version"

#: The channel on which PostgreSQL tells of changes; each notification says the name of the user.
CHANNEL = "ftpsd_users"

#: The number of the advisory lock of PostgreSQL that one migration or change of users holds: "ftps" in ASCII.
_LOCK = 0x66747073

_VERSION_1 = (
    "CREATE TABLE ftpsd_schema (version integer NOT NULL)",
    "INSERT INTO ftpsd_schema (version) VALUES (0)",
    # A notification has at most 8,000 bytes, and a name at most 1 kB on the wire.
    """CREATE TABLE ftpsd_users (
        name text PRIMARY KEY CHECK (name <> '' AND length(name) <= 1000),
        password text, home text, enabled {boolean}, expires text, permissions text, paths {json},
        groups {json}, folders {json}, quota {json}, limits {json}, networks {json}, hours {json}, names {json},
        umask text, tls {json}, certificates {json}, totp text)""",
)

#: PostgreSQL tells of each change, whoever makes it.
_NOTIFY = (
    """CREATE FUNCTION ftpsd_users_changed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP <> 'INSERT' THEN PERFORM pg_notify('ftpsd_users', OLD.name); END IF;
        IF TG_OP <> 'DELETE' THEN PERFORM pg_notify('ftpsd_users', NEW.name); END IF;
        RETURN NULL;
    END $$""",
    """CREATE TRIGGER ftpsd_users_changed AFTER INSERT OR UPDATE OR DELETE ON ftpsd_users
    FOR EACH ROW EXECUTE FUNCTION ftpsd_users_changed()""",
)


@frozen
class Migration:
    """The statements that bring the tables to the next version; `{json}` stands for the type of a column with JSON."""

    statements: Sequence[str]
    postgresql: Sequence[str] = ()


#: A released one is never changed: the tables of a later version get a migration of their own.
MIGRATIONS = [Migration(_VERSION_1, _NOTIFY)]

_EXISTS = {
    "postgresql": "SELECT to_regclass('ftpsd_schema') IS NOT NULL",
    "sqlite": "SELECT count(*) FROM sqlite_master WHERE name = 'ftpsd_schema'",
}

_TYPES = {
    "postgresql": {"json": "jsonb", "boolean": "boolean"},
    "sqlite": {"json": "text", "boolean": "integer"},
}


class WrongVersion(SourceFailed):
    """The tables have another version than the one that this release knows."""


def check_version(version: object) -> None:
    """Raise WrongVersion unless a version is the one of this release."""
    ours = len(MIGRATIONS)
    if not isinstance(version, int) or version < ours:
        raise WrongVersion(f"the tables have version {version}, and this release needs {ours}: run `ftpsd sql migrate`")
    if version > ours:
        raise WrongVersion(f"the tables have version {version}, which is of a later release of ftpsd: update this one")


def migrate(connection: Connection, dialect: str) -> tuple[int, int]:
    """Bring the tables to the version of this release; return the version before and the one after.

    All migrations are one transaction, for which a second process waits. Tables of a later version are not changed.
    """
    with transaction(connection, dialect):
        before = version(connection, dialect)
        for number, migration in enumerate(MIGRATIONS[before:], before + 1):
            for statement in migration.statements:
                connection.run(statement.format(**_TYPES[dialect]))
            for statement in migration.postgresql if dialect == "postgresql" else ():
                connection.run(statement)
            connection.run(f"UPDATE ftpsd_schema SET version = {number}")
        return before, version(connection, dialect)


def version(connection: Connection, dialect: str) -> int:
    """Return the version of the tables; 0 if there are none."""
    if connection.run(_EXISTS[dialect]).rows[0][0]:
        for (found,) in connection.run("SELECT version FROM ftpsd_schema").rows:
            if isinstance(found, int):
                return found
    return 0


@contextmanager
def transaction(connection: Connection, dialect: str) -> Iterator[None]:
    """Run all statements of a block or none, while no other process changes the tables or users in such a block."""
    connection.run("BEGIN IMMEDIATE" if dialect == "sqlite" else "BEGIN")
    try:
        if dialect == "postgresql":
            connection.run(f"SELECT pg_advisory_xact_lock({_LOCK})")
        yield
        connection.run("COMMIT")
    except BaseException:
        with suppress(SourceFailed):
            connection.run("ROLLBACK")
        raise
