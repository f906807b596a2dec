"""Ask the running daemon over its admin socket: AdminClient. HTTP over a Unix socket, with a deadline for each call."""

from __future__ import annotations

import argparse
import grp
import http.client
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from ftpsd.cli.failure import CommandFailed, Unreachable
from ftpsd.cli.options import CONFIGURATION
from ftpsd.protocol.printable import printable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from ftpsd.config.yaml import Document

#: The socket of ftpsd.service, which has RuntimeDirectory=ftpsd.
SERVICE_SOCKET = Path("/run/ftpsd/admin.sock")

#: Seconds for a call, from connecting to the end of the answer.
PATIENCE = 30.0

#: Seconds without any data after which a stream of events is taken for dead. The daemon sends heartbeats.
SILENCE = 60.0

#: Bytes of an answer, and of a line of a stream.
LARGEST_ANSWER, LARGEST_LINE = 64 * 2**20, 2**20

#: The value of a parameter of a query. A parameter that is None is left out.
Parameter = str | int | bool | None


class Refused(CommandFailed):
    """The daemon has refused the request. `code` is the status of the answer, `faults` those of the configuration."""

    def __init__(self, text: str, code: int, faults: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.code = code
        self.faults = faults


class UnknownSocket(Unreachable):
    """The configuration cannot be read, so that nobody knows where the admin socket is."""

    def __init__(self, document: Document) -> None:
        self.faults = tuple(map(str, document.faults)) or (f"{document.path}: the file is empty",)
        super().__init__(f"the admin socket is not known: {self.faults[0]}")


def connect(options: argparse.Namespace) -> AdminClient:
    """Return the client for the daemon whose configuration the option `-c` names."""
    return AdminClient(find_socket(options.config))


def find_socket(configuration: str) -> Path:
    """Return the path of the admin socket: the configured one, or that of ftpsd.service. Raises UnknownSocket."""
    document = _read(configuration)
    found = _configured(document)
    if found is not None:
        return found
    # Another configuration may belong to another daemon: with a wrong guess, that of the service would be told.
    if document.value is None and not (configuration == CONFIGURATION and SERVICE_SOCKET.exists()):
        raise UnknownSocket(document)
    return SERVICE_SOCKET


def configured_socket(configuration: str) -> Path | None:
    """Return `admin.socket` of the configuration, or the socket in systemd's $RUNTIME_DIRECTORY, or None."""
    return _configured(_read(configuration))


def _read(configuration: str) -> Document:
    from ftpsd.config.yaml import read

    return read(Path(os.path.abspath(configuration)))


def _configured(document: Document) -> Path | None:
    """Return the socket. Other faults of the file do not matter: the daemon may be running with an older one."""
    admin = document.value.get("admin") if isinstance(document.value, dict) else None
    configured = admin.get("socket") if isinstance(admin, dict) else None
    if isinstance(configured, str) and configured:
        return document.path.parent / configured
    directory = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(directory, "admin.sock") if directory else None


class AdminClient:
    """The admin API of the daemon behind one socket. Each call opens a connection of its own.

    Calls raise Unreachable if the daemon does not answer, and Refused if its answer is negative.
    """

    def __init__(self, path: Path, patience: float = PATIENCE) -> None:
        self.path = path
        self._patience = patience

    def get(self, resource: str, **query: Parameter) -> object:
        """Return what a resource below /v1 is."""
        return self._call("GET", resource, query, None, self._patience)

    def delete(self, resource: str, **query: Parameter) -> object:
        """Delete a resource, or those that the query names."""
        return self._call("DELETE", resource, query, None, self._patience)

    def post(self, resource: str, body: Mapping[str, object], patience: float | None = None) -> object:
        """Send an object to a resource."""
        return self._call("POST", resource, {}, body, patience or self._patience)

    def stream(self, resource: str, **query: Parameter) -> Iterator[dict[str, object]]:
        """Yield the events of a resource as they come, until the daemon ends."""
        connection = _Connection(self.path, self._patience)
        try:
            response = self._request(connection, "GET", resource, query, None)
            if response.status != 200:
                raise _refusal(response.status, response.read(LARGEST_LINE))
            connection.wait_for_each(SILENCE)
            yield from _events(response)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def _call(
        self,
        method: str,
        resource: str,
        query: Mapping[str, Parameter],
        body: Mapping[str, object] | None,
        patience: float,
    ) -> object:
        connection = _Connection(self.path, patience)
        try:
            response = self._request(connection, method, resource, query, body)
            data = response.read(LARGEST_ANSWER)
            if response.length:  # read returns what has come when the daemon dies
                raise http.client.IncompleteRead(data)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()
        if not 200 <= response.status < 300:
            raise _refusal(response.status, data)
        try:
            answer: object = json.loads(data) if data else None
        except ValueError:
            raise Unreachable(f"{self.path}: what listens there is not ftpsd") from None
        return answer

    def _request(
        self,
        connection: _Connection,
        method: str,
        resource: str,
        query: Mapping[str, Parameter],
        body: Mapping[str, object] | None,
    ) -> http.client.HTTPResponse:
        given = {name: _word(value) for name, value in query.items() if value is not None}
        encoded = urlencode(given, errors="surrogateescape")
        target = f"/v1/{resource}" + (f"?{encoded}" if encoded else "")
        headers = {"Accept": "application/json, text/event-stream", "Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, target, None if body is None else json.dumps(body), headers)
        return connection.getresponse()

    def _unreachable(self, error: Exception) -> Unreachable:
        return Unreachable(f"{self.path}: {_reason(error, self.path)}")


def _word(value: str | int | bool) -> str:
    return ("false", "true")[value] if isinstance(value, bool) else str(value)


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, object]]:
    """Yield the data of Server-Sent Events, each one line of JSON. Lines that start with a colon are heartbeats."""
    while line := response.readline(LARGEST_LINE):
        if line.startswith(b"data:"):
            data = json.loads(line[5:])
            if isinstance(data, dict):
                yield data


# --- failures --------------------------------------------------------------------------------------


def _refusal(status: int, data: bytes) -> CommandFailed:
    """Return the text of an answer in application/problem+json."""
    try:
        problem = json.loads(data)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return Refused(f"the daemon answers {status}, without a reason", status)
    text = printable(str(problem.get("detail") or problem.get("title") or f"the daemon answers {status}"), 1000)
    if status == HTTPStatus.FORBIDDEN:
        return Unreachable(text)
    faults = problem.get("faults")
    return Refused(text, status, tuple(map(_line, faults)) if isinstance(faults, list) else ())


def _line(fault: object) -> str:
    return printable(str(fault), 2000)


def _reason(error: Exception, path: Path) -> str:
    """Return why the daemon cannot be reached, and what helps."""
    if isinstance(error, TimeoutError):
        return "the daemon does not answer in time. Its log may say why: journalctl -u ftpsd"
    if isinstance(error, PermissionError):
        return f"permission denied: {_who_may(path)}"
    if isinstance(error, FileNotFoundError):
        return "no such socket: the daemon does not run, or its configuration has no admin.socket"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there: the daemon does not run"
    if isinstance(error, http.client.IncompleteRead | ConnectionError):
        return "the daemon has closed the connection"
    if isinstance(error, http.client.HTTPException):
        return "what listens there is not ftpsd"
    return (getattr(error, "strerror", None) or str(error)).lower()


def _who_may(path: Path) -> str:
    """Return who may use the socket."""
    for place in (path, path.parent):
        try:
            status = os.stat(place)
        except OSError:
            continue
        if status.st_gid and status.st_mode & 0o060:
            try:
                group = grp.getgrgid(status.st_gid).gr_name
            except KeyError:
                group = str(status.st_gid)
            return f"you must be root or in the group {group} (adduser NAME {group}, then log in again)"
    return "you must be root"


# --- the connection ----------------------------------------------------------------------------------


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket, all of it within `patience` seconds."""

    def __init__(self, path: Path, patience: float) -> None:
        super().__init__("localhost")
        self._path = path
        self._deadline = time.monotonic() + patience

    def connect(self) -> None:
        """Connect. While the daemon has no room for another connection, try again."""
        self.sock = self._socket = _Socket(self._deadline)
        while True:
            try:
                self._socket.connect(os.fspath(self._path))
            except BlockingIOError:
                if time.monotonic() > self._deadline:
                    raise TimeoutError from None
                time.sleep(0.05)
            else:
                return

    def wait_for_each(self, patience: float) -> None:
        """From now on, wait `patience` seconds for each piece of the answer, and not for all of it."""
        self._socket.silence = patience


class _Socket(socket.socket):
    """A Unix socket whose waits end at a deadline, or after `silence` seconds each."""

    def __init__(self, deadline: float) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._deadline = deadline
        self.silence: float | None = None
        self.settimeout(max(0.001, deadline - time.monotonic()))

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive bytes; http.client reads all that it reads by this method."""
        left = self.silence or self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.settimeout(left)
        return super().recv_into(buffer, nbytes, flags)
