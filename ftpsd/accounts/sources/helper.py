"""Users of a program on a Unix socket, with the protocol of Pure-FTPd's authd (docs/users-helper.md): HelperUsers."""

from __future__ import annotations

import os
import pwd
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import cast

from ftpsd.accounts.sources.deadline import Deadline
from ftpsd.accounts.sources.exchange import AnswerTooLong, BoundedSocket, connect_unix
from ftpsd.accounts.sources.json_values import InvalidJson, parse_object
from ftpsd.accounts.sources.source import (
    Answer,
    CannotLookUp,
    LoginDenied,
    Question,
    Secrets,
    SourceFailed,
    UnusableSettings,
    WrongPassword,
)
from ftpsd.config.sections.sources import HelperSource, RemoteSource
from ftpsd.config.sections.values import Value
from ftpsd.protocol.addresses import plain_address
from ftpsd.protocol.printable import printable

#: The version of the protocol.
VERSION = "1"

#: Bytes of an answer.
LONGEST_ANSWER = 16 * 1024

#: Keywords of numbers, and the keys of a user that they stand for. 0 means no limit.
_NUMBERS = {
    "user_quota_size": ("quota", "bytes"),
    "user_quota_files": ("quota", "files"),
    "throttling_bandwidth_ul": ("limits", "upload_rate"),
    "throttling_bandwidth_dl": ("limits", "download_rate"),
    "per_user_max": ("limits", "sessions"),
}

#: Keywords that have no effect: files belong to the daemon's user, and there is no tilde in paths.
_IGNORED = frozenset(("uid", "gid", "slow_tilde_expansion"))

_OTHERS = frozenset(("version", "auth_ok", "name", "dir", "reason", "error", "user"))

#: A `struct ucred`: process, user, group.
_CREDENTIALS = struct.Struct("=iII")


def make(settings: RemoteSource, _: Secrets) -> HelperUsers:
    """Return the source. Raises UnusableSettings."""
    return HelperUsers(cast(HelperSource, settings))


class HelperUsers:
    """Sends each question to a Unix socket, on a connection of its own."""

    kind = "helper"

    def __init__(self, settings: HelperSource) -> None:
        """Look up the helper's user. Raises UnusableSettings."""
        self.concurrency, self.timeout = settings.concurrency, float(settings.timeout)
        self._path = settings.socket
        self._users = {0, os.geteuid()}
        if settings.user is not None:
            try:
                self._users = {pwd.getpwnam(settings.user).pw_uid}
            except (KeyError, ValueError):
                raise UnusableSettings("user", "is not a user of this system", "Name the user of the helper.") from None

    def ask(self, question: Question) -> Answer | None:
        """Return the user; None if the helper knows none of this name.

        Raises WrongPassword, LoginDenied, SourceFailed or CannotLookUp.
        """
        if not _is_line(question.name):
            return None
        if not _is_line(question.password or ""):
            raise WrongPassword
        fields = self._exchange(question)
        verdict = fields.get("auth_ok")
        if verdict == "1":
            return Answer(_name(fields, question), _record(fields), verified=question.password is not None)
        if verdict == "0":
            return None
        if verdict != "-1":
            raise SourceFailed("the answer has no line auth_ok with 1, 0 or -1")
        if "reason" in fields:
            raise LoginDenied(_reason(fields["reason"]))
        if question.password is None:
            raise CannotLookUp("the helper does not look users up without their passwords")
        raise WrongPassword

    def names(self) -> Iterator[str]:
        """Raise SourceFailed."""
        raise SourceFailed("a helper cannot list its users")

    def probe(self) -> None:
        """Look up a user without a name: any complete answer will do. Raises SourceFailed."""
        self._exchange(Question("", None, plain_address("127.0.0.1")))

    def close(self) -> None:
        """Do nothing: no connection outlives a question."""

    def _exchange(self, question: Question) -> Mapping[str, str]:
        """Return the lines of the answer by their keywords. Raises SourceFailed."""
        deadline = Deadline(self.timeout)
        try:
            with closing(connect_unix(self._path, deadline)) as connected:
                self._check_owner(connected)
                bounded = BoundedSocket(connected, deadline, LONGEST_ANSWER)
                bounded.sendall(_request(question))
                return _fields(_receive(bounded))
        except AnswerTooLong:
            raise SourceFailed(f"the answer is longer than {LONGEST_ANSWER} bytes") from None
        except TimeoutError:
            raise SourceFailed(f"no answer within {self.timeout:.0f} seconds") from None
        except OSError as error:
            raise SourceFailed(f"{self._path}: {error.strerror or error}") from None

    def _check_owner(self, connected: socket.socket) -> None:
        """Check which user listens: somebody else's process must not get passwords."""
        data = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        owner = int(_CREDENTIALS.unpack(data)[1])
        if owner not in self._users:
            raise SourceFailed(
                f"{self._path} belongs to a process of the user with the number {owner}: see the key user"
            )


def _is_line(text: str) -> bool:
    """Return whether a text can stand in a line of a request."""
    return not any(character in text for character in "\0\r\n")


def _request(question: Question) -> bytes:
    lines = [f"version:{VERSION}", f"account:{question.name}"]
    if question.password is not None:
        lines.append(f"password:{question.password}")
    return "\n".join([*lines, f"peer:{question.peer}", "end", ""]).encode("utf-8", "surrogateescape")


def _receive(bounded: BoundedSocket) -> bytes:
    """Return the lines of an answer before `end`."""
    data = b"\n"
    while b"\nend\n" not in data:
        piece = bounded.receive()
        if not piece:
            raise SourceFailed("the helper has ended without a complete answer" if len(data) > 1 else "no answer")
        data += piece
    return data.partition(b"\nend\n")[0].removeprefix(b"\n")


def _fields(data: bytes) -> Mapping[str, str]:
    try:
        lines = data.decode("utf-8").split("\n") if data else []
    except UnicodeDecodeError:
        raise SourceFailed("the answer is not UTF-8") from None
    fields: dict[str, str] = {}
    for line in lines:
        keyword, colon, value = line.removesuffix("\r").partition(":")
        if not colon or keyword in fields or "\0" in value:
            raise SourceFailed("the answer has a line without a keyword, a keyword twice, or a NUL")
        fields[keyword] = value
    unknown = set(fields) - _OTHERS - _IGNORED - set(_NUMBERS)
    if unknown:
        raise SourceFailed(f"the answer has the keyword {printable(min(unknown), 40)}, which ftpsd does not support")
    if fields.get("version", VERSION) != VERSION:
        raise SourceFailed("the answer has another version of the protocol")
    if "error" in fields:
        raise SourceFailed(f"the helper reports: {printable(fields['error'])}")
    return fields


def _record(fields: Mapping[str, str]) -> dict[str, Value]:
    """Return the keys of the user: those of the keywords, and those of the JSON object behind `user`."""
    record: dict[str, Value] = {}
    if "dir" in fields:
        record["home"] = os.path.normpath(fields["dir"])
    for keyword, (section, key) in _NUMBERS.items():
        text = fields.get(keyword, "0")
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise SourceFailed(f"the answer has a {keyword} that is not a number")
        if int(text):
            below = cast(dict[str, Value], record.setdefault(section, {}))
            below[key] = int(text)
    try:
        record |= parse_object(fields["user"].encode()) if "user" in fields else {}
    except InvalidJson as error:
        raise SourceFailed(f"the line user {error}") from None
    if "password" in record:
        raise SourceFailed("the line user has a password: the helper verifies passwords itself")
    return record


def _name(fields: Mapping[str, str], question: Question) -> str:
    name = fields.get("name", question.name)
    if not name or not name.isprintable():
        raise SourceFailed("the answer has a name that is not printable text")
    return name


def _reason(text: str) -> str:
    if not text or len(text) > 200 or not text.isprintable():
        raise SourceFailed("the helper denies a login without a printable reason of at most 200 characters")
    return text
