"""Read and change the users in the tables of `schema`, for `ftpsd user`."""

from __future__ import annotations

import json

from ftpsd.accounts.sources.sql.database import Connection, Parameter
from ftpsd.accounts.sources.sql.records import record
from ftpsd.accounts.sources.sql.schema import COLUMNS, FIND, NAMES, VERSION_COLUMN, check_version
from ftpsd.config.sections.values import Value

_NAMES = ("name", *COLUMNS)

_INSERT = f"INSERT INTO ftpsd_users ({', '.join(_NAMES)}) VALUES ({', '.join(f'%({each})s' for each in _NAMES)})"

_UPDATE = f"UPDATE ftpsd_users SET {', '.join(f'{each} = %({each})s' for each in COLUMNS)} WHERE name = %(name)s"


def lock(connection: Connection, name: str) -> None:
    """Let no other program change a user of PostgreSQL before the end of the transaction. Raises SourceFailed."""
    connection.run("SELECT 1 FROM ftpsd_users WHERE name = %(name)s FOR UPDATE", {"name": name})


def get(connection: Connection, name: str) -> dict[str, Value] | None:
    """Return the keys of a user; None if there is none of this name. Raises SourceFailed."""
    rows = connection.run(FIND, {"name": name}).mappings()
    check_version(rows[0].pop(VERSION_COLUMN) if rows else None)
    values = record(rows[0])
    return values if values.pop("name", None) is not None else None


def put(connection: Connection, name: str, values: dict[str, Value], is_new: bool) -> None:
    """Add a new user, or replace the keys of an existing one. Raises SourceFailed."""
    columns = {key: _stored(form, values.get(key)) for key, form in COLUMNS.items()}
    connection.run(_INSERT if is_new else _UPDATE, {"name": name, **columns})


def remove(connection: Connection, name: str) -> None:
    """Remove a user. Raises SourceFailed."""
    connection.run("DELETE FROM ftpsd_users WHERE name = %(name)s", {"name": name})


def names(connection: Connection) -> list[str]:
    """Return the names of all users. Raises SourceFailed."""
    return [str(name) for (name,) in connection.run(NAMES).rows]


def _stored(form: str, value: Value) -> Parameter:
    if value is None or (form == "boolean" and isinstance(value, bool)) or (form == "text" and isinstance(value, str)):
        return value  # type: ignore[return-value]
    return json.dumps(value, ensure_ascii=False)
