"""The line protocol of helpers (docs/users-helper.md): Request and the answers. It is that of Pure-FTPd's pure-authd.

A request and an answer are lines of `keyword:value`, ended by a line `end`. Unknown keywords are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass

#: The version of the protocol, in the line `version` of requests and answers.
VERSION = 1

#: Bytes of a request. A name and a password are lines of FTP commands, which are shorter.
LONGEST_REQUEST = 16 * 1024


class InvalidRequest(ValueError):
    """A request that is incomplete, too long or of another version."""


@dataclass(frozen=True, slots=True)
class Request:
    """A question about one user: is this the password, or, without one, may this user log in at all?"""

    name: str
    password: str | None
    #: The address of the client; empty if it is not known.
    peer: str = ""


def is_complete(data: bytes) -> bool:
    """Return whether a request has its last line."""
    return data.startswith(b"end\n") or b"\nend\n" in data


def parse(data: bytes) -> Request:
    """Parse a complete request. Raises InvalidRequest."""
    lines = (data + b"\n").partition(b"\nend\n")[0].split(b"\n")
    fields: dict[str, str] = {}
    for line in lines:
        keyword, _, value = line.decode("utf-8", "surrogateescape").partition(":")
        if fields.setdefault(keyword, value) != value:
            raise InvalidRequest("a keyword has two values")
        if "\0" in value:
            raise InvalidRequest("a value has a NUL")
    if fields.get("version", str(VERSION)) != str(VERSION):
        raise InvalidRequest("the version of the protocol is not known")
    if "account" not in fields:
        raise InvalidRequest("there is no line account")
    return Request(fields["account"], fields.get("password"), fields.get("peer", ""))


def accepted(name: str, home: str, uid: int, gid: int) -> bytes:
    """Return the answer for a user whose password is right, or who was only looked up."""
    return _lines("auth_ok:1", f"name:{name}", f"dir:{home}", f"uid:{uid}", f"gid:{gid}")


def unknown() -> bytes:
    """Return the answer for a name that no user has."""
    return _lines("auth_ok:0")


def wrong_password() -> bytes:
    """Return the answer for a wrong password."""
    return _lines("auth_ok:-1")


def denied(reason: str) -> bytes:
    """Return the answer for a user who may not log in, though the password is right. The client is told the reason."""
    return _lines("auth_ok:-1", f"reason:{reason}")


def failed(error: str) -> bytes:
    """Return the answer if the password could not be checked. The error is for the log of the daemon."""
    return _lines(f"error:{error}")


def _lines(*lines: str) -> bytes:
    clean = (line.replace("\n", " ").replace("\r", " ") for line in (f"version:{VERSION}", *lines))
    return "".join(f"{line}\n" for line in (*clean, "end")).encode("utf-8", "surrogateescape")
