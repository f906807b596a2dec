"""The users that variables of the environment describe, as `FTPSD_USER_alice_PASSWORD_FILE=/run/secrets/alice`."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Mapping
from typing import Final

from attrs import field, frozen

from ftpsd.accounts import hashes
from ftpsd.accounts.hashes import LONGEST_PASSWORD
from ftpsd.cli.user.values import Values, permissions
from ftpsd.config.faults import quoted
from ftpsd.config.sections.passwords import PasswordSettings
from ftpsd.config.users.names import folded, problem

PREFIX: Final = "FTPSD_USER_"

#: How a variable gives a password: exactly one of them for each user.
_PASSWORDS = ("PASSWORD_FILE", "PASSWORD_HASH_FILE", "PASSWORD_HASH", "PASSWORD")

_KINDS = (*_PASSWORDS, "HOME", "PERMISSIONS")

_VARIABLE = re.compile(rf"{PREFIX}(?s:(.+?))_({'|'.join(_KINDS)})")

#: What Docker links and Kubernetes set for a service whose name begins with `ftpsd-user-`.
_SERVICE_LINK = re.compile(rf"{PREFIX}.*?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


@frozen
class GivenUser:
    """One user. `variables` are the values by their kinds (`PASSWORD_FILE`)."""

    name: str
    variables: dict[str, str]

    def variable(self, kind: str) -> str:
        """Return the name of the variable of this kind."""
        return f"{PREFIX}{self.name}_{kind}"

    @property
    def is_exposed(self) -> bool:
        """Whether the password itself is in the environment, which `docker inspect` shows."""
        return "PASSWORD" in self.variables

    def values(self, cost: PasswordSettings) -> Values:
        """Return the keys of the user's file, with the hash of the password. Blocks. Raises ValueError."""
        given = self.variables
        found: Values = {"password": self._hash(cost)}
        if "HOME" in given:
            found["home"] = given["HOME"]
        if "PERMISSIONS" in given:
            found["permissions"] = permissions(given["PERMISSIONS"])
        return found

    def _hash(self, cost: PasswordSettings) -> str:
        (kind,) = self.variables.keys() & set(_PASSWORDS)
        variable, value = self.variable(kind), self.variables[kind]
        text = _secret(variable, value) if kind.endswith("FILE") else value
        where = f"the file {value} of {variable}" if kind.endswith("FILE") else variable
        wrong = _problem(text)
        if wrong is not None:
            raise ValueError(f"{where} {wrong}")
        if "HASH" not in kind:
            return hashes.make(text, cost)
        if not hashes.is_valid(text):
            raise ValueError(f"{where} has no hash that ftpsd knows: write the output of `ftpsd passwd`")
        return text


@frozen
class Given:
    """What the environment says: users, and what is wrong with it."""

    users: list[GivenUser] = field(factory=list)
    faults: list[str] = field(factory=list)


def read(environment: Mapping[str, str]) -> Given:
    """Return the users of an environment. Other variables than those of users are ignored."""
    found = Given()
    users: dict[str, dict[str, str]] = {}
    for variable, value in sorted(environment.items()):
        match = _VARIABLE.fullmatch(variable)
        if match is not None:
            users.setdefault(match[1], {})[match[2]] = value
        elif variable.startswith(PREFIX) and not _SERVICE_LINK.fullmatch(variable):
            found.faults.append(f"{quoted(variable)} is not {PREFIX}NAME_{{{','.join(_KINDS)}}}")
    names: dict[str, str] = {}
    for name, variables in users.items():
        wrong = _wrong(GivenUser(name, variables))
        other = names.setdefault(folded(name), name)
        if other != name:
            wrong = f"{PREFIX}{name} and {PREFIX}{other} differ only in case: choose another name"
        if wrong is None:
            found.users.append(GivenUser(name, variables))
        else:
            found.faults.append(wrong)
    return found


def _wrong(user: GivenUser) -> str | None:
    """Return what is wrong with the variables of a user; None if nothing is."""
    wrong = problem(user.name)
    if wrong is not None:
        return f"{PREFIX}{user.name}: the name {wrong}"
    given = [user.variable(kind) for kind in _PASSWORDS if kind in user.variables]
    if not given:
        return f"{user.name} has no password: set {user.variable('PASSWORD_FILE')}"
    return None if len(given) == 1 else f"{' and '.join(given)} are both set: remove one"


def _secret(variable: str, path: str) -> str:
    """Return the content of a file without the line break at its end. Raises ValueError."""
    try:
        # A named pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            data = os.read(descriptor, LONGEST_PASSWORD + 3)
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"{variable}: cannot read {path}: {reason}{_remedy(error)}") from None
    return data.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "surrogateescape")


def _remedy(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return ". Mount the secret there, or correct the variable"
    if isinstance(error, PermissionError):
        return f". Let user {os.geteuid()} or group {os.getegid()} read it"
    return ""


def _problem(text: str) -> str | None:
    """Return why a text is no password or hash; None if it can be one."""
    if not text:
        return "is empty"
    if any(each in text for each in "\0\r\n"):
        return "has more than one line, or a NUL byte"
    if len(text.encode("utf-8", "surrogateescape")) > LONGEST_PASSWORD:
        return f"has more than {LONGEST_PASSWORD} bytes"
    return None
