"""What sources of users answer, and what the PAM helper is asked, as targets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from ftpsd.accounts.sources import helper, http
from ftpsd.accounts.sources.source import LoginDenied, Question, Record, Source, SourceFailed, WrongPassword
from ftpsd.accounts.user_store import InvalidRecord
from ftpsd.config.sections.sources import HelperSource, HttpSource
from ftpsd.helper import messages
from ftpsd.helper.messages import InvalidRequest, Request
from ftpsd.protocol.addresses import plain_address

#: Builds settings of a record.
Build = Callable[[str, Record], object]

_QUESTION = Question("alice", "secret", plain_address("192.0.2.7"))

#: Bytes that fit into the buffer of a socket.
_LONGEST = 100_000

HTTP = (
    b'HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n{"result": "accepted", "user": {"home": "home", "umask": "0"}}',
    b'HTTP/1.0 200 OK\r\n\r\n{"result": "denied", "reason": "no", "name": "a"}',
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n{"result": "unknown"}\r\n0\r\n\r\n',
    b"HT" + 150 * b"\0" + b"1 200 +1",
)
HTTP_WORDS = (
    b'"wrong_password"',
    b'"quota"',
    b'"limits"',
    b'"permissions"',
    b"NaN",
    b"1e999",
    b"\\u0000",
    b"\\ud800",
    b"[[[[",
    b"\r\n",
)

HELPER = (
    b"version:1\nauth_ok:1\nname:alice\ndir:home\nuser_quota_size:9\nper_user_max:1\nuid:1\ngid:1\nend\n",
    b'auth_ok:1\nuser:{"home": "home", "paths": {"/a": []}, "groups": ["a"]}\nend\n',
    b"auth_ok:-1\nreason:no\nend\n",
    b"error:no\nend\n",
    b"error:" + 300 * b"\0" + b"\nend\n",
    300 * b"\x01" + b":1\nend\n",
)
HELPER_WORDS = (b"auth_ok:0\n", b"throttling_bandwidth_ul:", b"user:", b"end\n", b"\r\n", b"\0", b"\xff", b"-1", b":")

REQUEST = (b"version:1\naccount:alice\npassword:secret\npeer:192.0.2.7\nend\n",)
REQUEST_WORDS = (b"account:", b"password:", b"version:", b"end\n", b"\r\n", b"\0", b"\xff", b":")


def http_answer(build: Build, raw: bytes) -> None:
    """Any bytes of a web server are an answer or a failure that can be logged, and the record settings or faults."""
    with _stream(raw) as near, mock.patch.object(http, "connect_tcp", return_value=near):
        _ask(http.make(HttpSource(type="http", url="http://localhost/", timeout=20), {}), build)


def helper_answer(build: Build, raw: bytes) -> None:
    """The same, for the lines of a helper."""
    with _stream(raw) as near, mock.patch.object(helper, "connect_unix", return_value=near):
        _ask(helper.make(HelperSource(type="helper", socket=Path("/socket"), timeout=20), {}), build)


@contextmanager
def _stream(raw: bytes) -> Iterator[socket.socket]:
    """A connection whose other side has sent some bytes, and ended."""
    near, far = socket.socketpair()
    with near, far:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _LONGEST)
        far.sendall(raw[:_LONGEST])
        far.shutdown(socket.SHUT_WR)
        yield near


def _ask(source: Source, build: Build) -> None:
    answer, told = None, "-"
    try:
        answer = source.ask(_QUESTION)
        if answer is not None:
            assert answer.verified and answer.name.isprintable() and "password" not in answer.values
            build(answer.name, answer.values)
    except WrongPassword:
        pass
    except LoginDenied as error:
        told = error.reason
    except (SourceFailed, InvalidRecord) as error:
        told = str(error)
    assert answer is not None or (0 < len(told) < 400 and told.isprintable()), told


def helper_request(raw: bytes) -> None:
    """Any bytes are a question or refused, and an answer about it has the lines that it should."""
    try:
        request = messages.parse(raw)
    except InvalidRequest:
        return
    assert isinstance(request, Request)
    answer = messages.accepted(request.name, request.peer, 1, 1)
    assert answer.count(b"\n") == 7 and answer.endswith(b"\nend\n")
