"""One connection to one server of a directory, with a deadline for each operation: Connection.

python-ldap calls libldap. Before release 2.6.9, libldap waits for ever, in a busy loop, for a server that accepts a
connection and does not answer the TLS handshake (ITS#8047), unless OPT_CONNECT_ASYNC is set. Since that release its
network timeout covers the handshake, and the option must not be set: it would leave the handshake to the caller.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import ldap
from attrs import frozen
from ldap.controls.libldap import SimplePagedResultsControl
from ldap.controls.ppolicy import PasswordPolicyControl
from ldap.ldapobject import SimpleLDAPObject

from ftpsd.accounts.sources.deadline import Deadline
from ftpsd.accounts.sources.ldap.login_results import LoginResult, rejected, succeeded
from ftpsd.accounts.sources.source import SourceFailed
from ftpsd.protocol.printable import printable

Scope = Literal["base", "one", "subtree"]

_SCOPES = {"base": ldap.SCOPE_BASE, "one": ldap.SCOPE_ONELEVEL, "subtree": ldap.SCOPE_SUBTREE}

#: Errors after which another server may answer.
_SERVER_FAILED = (
    ldap.SERVER_DOWN,
    ldap.CONNECT_ERROR,
    ldap.TIMEOUT,
    ldap.TIMELIMIT_EXCEEDED,
    ldap.BUSY,
    ldap.UNAVAILABLE,
)

#: Whether OPT_CONNECT_ASYNC is needed, and can be used.
_ASYNC = ldap.get_option(ldap.OPT_API_INFO)["vendor_version"] < 20609

#: TLS 1.2, as libldap writes it.
_TLS_1_2 = 0x303

_PAGE = 500


class ServerFailed(Exception):
    """The server cannot be reached or does not answer; another one may. `timed_out` says that time is over."""

    def __init__(self, reason: str, timed_out: bool) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class TooManyEntries(Exception):
    """More entries match than the search may return."""


class NoSuchEntry(SourceFailed):
    """The entry below which a search begins does not exist, or the server does not show it."""


def deadline_after(seconds: float) -> Deadline:
    """Return a deadline after which ServerFailed is raised."""
    return Deadline(seconds, lambda: ServerFailed("no answer in time", True))


@frozen
class Tls:
    """How connections are encrypted: `start` is whether StartTLS must be used, `authorities` is a file."""

    start: bool
    authorities: str | None


@frozen
class Entry:
    """An entry of the directory. The names of its attributes are in lower case."""

    dn: str
    attributes: Mapping[str, Sequence[bytes]]

    def texts(self, attribute: str) -> list[str]:
        """Return the values of an attribute. Raises SourceFailed if one is not text: it may restrict the user."""
        try:
            return [value.decode() for value in self.attributes.get(attribute.lower(), ())]
        except UnicodeDecodeError:
            raise SourceFailed(f"{attribute} of the entry {self.dn} is not text in UTF-8") from None


class Connection:
    """A connection to a server. It is for one thread at a time, and must be closed after any exception."""

    def __init__(self, url: str, tls: Tls, deadline: Deadline) -> None:
        """Raises ServerFailed. Without StartTLS, the server is contacted by the first operation."""
        self.since = self.last_used = time.monotonic()
        self._library: SimpleLDAPObject = ldap.initialize(url)
        try:
            self._set_options(url, tls, deadline)
            if tls.start:
                self._library.start_tls_s()
        except BaseException as error:
            self.close()
            raise _failure(error) if isinstance(error, ldap.LDAPError) else error from None

    def _set_options(self, url: str, tls: Tls, deadline: Deadline) -> None:
        seconds = deadline.left()
        options = {
            ldap.OPT_PROTOCOL_VERSION: ldap.VERSION3,
            ldap.OPT_REFERRALS: 0,
            ldap.OPT_DEREF: ldap.DEREF_NEVER,
            ldap.OPT_CONNECT_ASYNC: int(_ASYNC),
            ldap.OPT_NETWORK_TIMEOUT: seconds,
            ldap.OPT_TIMEOUT: seconds,
        }
        if tls.start or url.startswith("ldaps:"):
            options |= {
                ldap.OPT_X_TLS_REQUIRE_CERT: ldap.OPT_X_TLS_DEMAND,
                ldap.OPT_X_TLS_PROTOCOL_MIN: _TLS_1_2,
                ldap.OPT_X_TLS_CACERTFILE: tls.authorities or "",
                ldap.OPT_X_TLS_CACERTDIR: "",  # ldap.conf may name further authorities
                ldap.OPT_X_TLS_NEWCTX: 0,  # the last one: makes a context of the options above
            }
        for option, value in options.items():
            try:
                self._library.set_option(option, value)
            except ValueError:  # a file of authorities that cannot be read
                raise SourceFailed(f"the authorities in {tls.authorities} cannot be used") from None

    def bind(self, dn: str, password: str, deadline: Deadline) -> LoginResult:
        """Log in. Any earlier login on this connection ends, whatever the result.

        Raises ServerFailed, or SourceFailed if the server answers neither yes nor no.
        """
        if not password:
            raise ValueError("a bind without a password is an anonymous one, and would succeed")
        secret = password.encode("utf-8", "surrogateescape")
        try:
            message = self._library.simple_bind(dn, secret, serverctrls=[PasswordPolicyControl()])
            _, _, _, controls, _, _ = self._library.result4(message, timeout=deadline.left())
        except ldap.LDAPError as error:
            result = rejected(error)
            if result is None:
                raise _failure(error) from None
            return result
        finally:
            self.last_used = time.monotonic()
        return succeeded(controls)

    def search(
        self, base: str, scope: Scope, text: str, attributes: Sequence[str], deadline: Deadline, most: int = 0
    ) -> list[Entry]:
        """Return the entries that match a filter. `most` limits their number; 0 does not.

        Raises ServerFailed, SourceFailed (NoSuchEntry if it is `base`), or TooManyEntries.
        """
        try:
            message = self._start_search(base, scope, text, attributes, deadline, most, None)
            _, data, _, _, _, _ = self._library.result4(message, timeout=deadline.left())
        except ldap.SIZELIMIT_EXCEEDED:
            raise TooManyEntries from None
        except ldap.LDAPError as error:
            raise _failure(error, base) from None
        finally:
            self.last_used = time.monotonic()
        return _entries(data)

    def pages(
        self, base: str, scope: Scope, text: str, attributes: Sequence[str], deadline: Deadline
    ) -> Iterator[list[Entry]]:
        """Yield all entries that match a filter, in pages (RFC 2696). Raises ServerFailed or SourceFailed.

        Active Directory returns more than 1,000 entries only in this way. Other servers may cut what they return, too.
        """
        control = SimplePagedResultsControl(True, size=_PAGE, cookie="")
        try:
            while True:
                message = self._start_search(base, scope, text, attributes, deadline, 0, [control])
                _, data, _, controls, _, _ = self._library.result4(message, timeout=deadline.left())
                yield _entries(data)
                answers = [each for each in controls if each.controlType == control.controlType]
                if not answers or not answers[0].cookie:
                    return
                control.cookie = answers[0].cookie
        except ldap.SIZELIMIT_EXCEEDED:
            raise SourceFailed("the server does not return all entries: raise its size limit for bind_dn") from None
        except ldap.LDAPError as error:
            raise _failure(error, base) from None

    def _start_search(
        self,
        base: str,
        scope: Scope,
        text: str,
        attributes: Sequence[str],
        deadline: Deadline,
        most: int,
        controls: list[SimplePagedResultsControl] | None,
    ) -> int:
        seconds = math.ceil(deadline.left())
        message: int = self._library.search_ext(
            base, _SCOPES[scope], text, list(attributes), serverctrls=controls, timeout=seconds, sizelimit=most
        )
        return message

    def close(self) -> None:
        """Close the connection. Does not wait for the server."""
        try:
            self._library.unbind_ext()
        except ldap.LDAPError:
            pass  # it was closed by the server


def _entries(data: Sequence[tuple[str | None, Mapping[str, list[bytes]]]]) -> list[Entry]:
    """Return the entries of a result, without the references to other servers, which have no DN."""
    return [Entry(dn, {name.lower(): values for name, values in found.items()}) for dn, found in data if dn]


def _failure(error: ldap.LDAPError, base: str | None = None) -> Exception:
    """Return the exception for an error of the library. `base` is where a search began."""
    if isinstance(error, _SERVER_FAILED):
        return ServerFailed(_reason(error), isinstance(error, ldap.TIMEOUT) or _errno(error) == errno.ETIMEDOUT)
    if isinstance(error, ldap.NO_SUCH_OBJECT) and base is not None:
        return NoSuchEntry(f"the server has no entry {base}, or does not show it to bind_dn")
    return SourceFailed(_reason(error))


def _errno(error: ldap.LDAPError) -> int:
    return int(error.args[0].get("errno", 0)) if error.args and isinstance(error.args[0], dict) else 0


def _reason(error: ldap.LDAPError) -> str:
    """Return an error of the library as text."""
    if isinstance(error, ldap.TIMEOUT):
        return "no answer in time"
    details = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    text, more = details.get("desc") or type(error).__name__, details.get("info")
    return printable(f"{text} ({more})" if more and more != text else str(text))
