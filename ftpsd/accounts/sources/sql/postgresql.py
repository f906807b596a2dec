"""Connections to PostgreSQL, with psycopg 3."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import tuple_row

from ftpsd.accounts.sources.deadline import Deadline
from ftpsd.accounts.sources.source import SourceFailed, UnusableSettings
from ftpsd.accounts.sources.sql.database import NOTHING, ConnectionLost, MissingTable, Parameter, Result

#: The authorities that a server's certificate may be of if the URL names none. libpq looks in the home of the daemon's
#: user only; `sslrootcert=system` needs version 16 of it, and Debian 12 has version 15.
_AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")

#: How a query begins that may stand in another one.
_QUERY = re.compile(r"\s*(?:SELECT|WITH)\b", re.IGNORECASE)

#: Find out within a minute that the host of an idle connection is gone.
_KEEPALIVE = {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}


class PostgreSql:
    """A database of a PostgreSQL server. Raises UnusableSettings for a URL that libpq does not understand."""

    dialect = "postgresql"

    def __init__(self, url: str, password: str | None, ca_file: Path | None) -> None:
        try:
            given = conninfo_to_dict(url)
        except psycopg.Error as error:
            remedy = "Write it as postgresql://ftpsd@db.example.com/ftpsd."
            raise UnusableSettings("url", f"is not valid ({_one_line(error)})", remedy) from None
        if given.get("password"):
            raise UnusableSettings(
                "url", "contains a password", "Write it to a file, and name that with password_file."
            )
        self._parameters = {key: str(value) for key, value in given.items() if value is not None}
        self._parameters |= _encryption(self._parameters, ca_file)
        self.place = f"PostgreSQL at {self._parameters.get('host') or 'the local socket'}"
        if password is not None:
            self._parameters["password"] = password

    def connect(self, deadline: Deadline, writable: bool = False) -> PostgreSqlConnection:
        """Connect to the server. Raises SourceFailed.

        The server ends a statement itself when the time is over, so that none remains when this connection is cut.
        """
        try:
            connection = psycopg.connect(
                self._conninfo(deadline.remaining, writable),
                autocommit=True,
                prepare_threshold=None,  # a prepared statement fails when a migration changes its columns
                row_factory=tuple_row,
            )
            return PostgreSqlConnection(connection)
        except (psycopg.Error, OSError) as error:
            raise SourceFailed(_one_line(error)) from None

    def _conninfo(self, seconds: float, writable: bool) -> str:
        hosts = self._parameters.get("host", "").count(",") + 1
        session = [f"-c statement_timeout={max(1, int(seconds * 1000))}"]
        if not writable:
            session.append("-c default_transaction_read_only=on")
        return make_conninfo(
            **{
                "application_name": "ftpsd",
                **_KEEPALIVE,
                **self._parameters,
                "client_encoding": "UTF8",
                "connect_timeout": str(max(2, int(seconds / hosts))),  # libpq takes 1 for 2
                "options": " ".join([self._parameters.get("options", ""), *session]).strip(),
            }
        )


class PostgreSqlConnection:
    """One connection to a server."""

    def __init__(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        self._connection = connection
        #: A second descriptor of the socket: to shut it down is the one way to end a call that waits for the server.
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        #: What notifications said that have not been taken yet.
        self.notified: list[str] = []
        connection.add_notify_handler(lambda notification: self.notified.append(notification.payload))

    def run(self, statement: str, parameters: Mapping[str, Parameter] = NOTHING, most: int | None = None) -> Result:
        """Run one statement; return `most` rows at most. Raises SourceFailed."""
        try:
            cursor = self._connection.execute(statement if most is None else _limited(statement, most), parameters)
            if cursor.description is None:
                return Result()
            return Result([column.name for column in cursor.description], cursor.fetchall())
        except errors.UndefinedTable as error:
            raise MissingTable(_one_line(error)) from None
        except errors.UntranslatableCharacter:
            return Result()  # the encoding of the database does not have a letter of the name, so nobody has this name
        except (psycopg.Error, ValueError, RecursionError) as error:  # the last two come from JSON
            raise (ConnectionLost if self._connection.closed else SourceFailed)(_one_line(error)) from None

    def fileno(self) -> int:
        """Return the descriptor of the socket, which becomes readable when a notification arrives."""
        return self._connection.fileno()

    def is_usable(self) -> bool:
        """Return whether the connection is open, and in no transaction."""
        connection = self._connection
        return not connection.closed and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE

    def abort(self) -> None:
        """Cut the connection."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended by itself

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        self._socket.close()


def _limited(statement: str, most: int) -> str:
    """Return a query whose server sends some rows at most, or the statement itself if it is no plain query.

    libpq keeps all rows that it gets in memory.
    """
    query = statement.rstrip("; \t\r\n")
    if ";" in query or not _QUERY.match(query):
        return statement
    return f"SELECT * FROM (\n{query}\n) AS found LIMIT {most}"  # the line ends end a comment of one line


def _encryption(parameters: Mapping[str, str], ca_file: Path | None) -> dict[str, str]:
    """Return the parameters for TLS that the URL leaves open: the server of another host must be verified."""
    found = {} if ca_file is None else {"sslrootcert": str(ca_file)}
    places = [parameters.get(key) or os.environ.get(f"PG{key.upper()}", "") for key in ("host", "hostaddr", "service")]
    if "sslmode" not in parameters and not all(_is_local(host) for each in places for host in each.split(",")):
        found["sslmode"] = "verify-full"
    mode = found.get("sslmode", parameters.get("sslmode", ""))
    if mode.startswith("verify") and "sslrootcert" not in {**parameters, **found}:
        found["sslrootcert"] = next(filter(os.path.exists, _AUTHORITIES), "system")
    return found


def _is_local(host: str) -> bool:
    """Return whether a host is a Unix socket, or this machine."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _one_line(error: BaseException) -> str:
    """Return the first line of what the server or libpq says. It never has the password."""
    diagnostics = getattr(error, "diag", None)
    text = getattr(diagnostics, "message_primary", None) or str(error) or type(error).__name__
    return " ".join(text.strip().splitlines()[:1])
