"""The source of users in a directory: Directory.

A login takes one search as the service, one bind as the user on another connection, and searches for groups if any are
configured. With `bind` and without `bind_dn`, it takes one bind, and searches as the user. If `bind` is not a
distinguished name, a second bind shows that the entry which the search has found is the one of the password.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

from attrs import frozen

from ftpsd.accounts.sources.deadline import Deadline
from ftpsd.accounts.sources.ldap.connection import Connection, Entry, NoSuchEntry, Tls, TooManyEntries, deadline_after
from ftpsd.accounts.sources.ldap.groups import GroupNames, attributes_for, groups_of, limited
from ftpsd.accounts.sources.ldap.login_results import LoginResult
from ftpsd.accounts.sources.ldap.names import (
    dn_for,
    dn_template,
    filter_for,
    first_values,
    folded,
    login_name_for,
    name_attribute,
)
from ftpsd.accounts.sources.ldap.pool import Pool, Server
from ftpsd.accounts.sources.ldap.ranges import complete
from ftpsd.accounts.sources.ldap.records import make_record
from ftpsd.accounts.sources.source import Answer, CannotLookUp, LoginDenied, Question, SourceFailed, WrongPassword
from ftpsd.config.sections.sources import LdapSource

#: Seconds in which the server lists all users.
_LISTING = 60.0

#: Seconds for which the service does not try to log in again after it was refused: servers lock accounts.
_REFUSED = 60.0

#: The longest name of a user, in characters.
_LONGEST_NAME = 255


@frozen
class _Found:
    """What a search as the user has found after a bind."""

    result: LoginResult
    entry: Entry | None
    groups: Sequence[str]


class Directory:
    """Users in a directory. `servers` are the URL of each server, and how connections to it are encrypted."""

    kind = "ldap"

    def __init__(self, settings: LdapSource, servers: Sequence[tuple[str, Tls]], password: str | None) -> None:
        self.concurrency = settings.concurrency
        self.timeout = float(settings.timeout)
        self._settings = settings
        self._password = password
        #: Until when the service does not log in, and why.
        self._refused_until, self._refusal = 0.0, ""
        self._binds_at_once = settings.bind is not None and settings.bind_dn is None
        #: The distinguished name of a user, with {name}; None: users are found with the filter.
        self._dn = dn_template(settings.bind)
        #: Active Directory tells strangers nothing.
        self._looks_up = not self._binds_at_once or self._dn is not None
        self._name = settings.name or name_attribute(self._dn or settings.filter) or ""
        self._attributes = [self._name, *settings.attributes.values()]
        self._needs_groups = bool(settings.groups or settings.required_groups)
        if self._needs_groups:
            self._attributes += attributes_for(settings.membership)
        self._pool = Pool([Server(url, tls) for url, tls in servers], self._log_in)

    def ask(self, question: Question) -> Answer | None:
        """Return the user whom the directory knows (see `Source.ask`)."""
        if not _is_usable(question.name):
            return None
        if question.password is None and not self._looks_up:
            raise CannotLookUp("users cannot be looked up without bind_dn")
        deadline = deadline_after(self.timeout)
        if self._binds_at_once and question.password is not None:
            return self._ask_as_user(question.name, question.password, deadline)
        if self._binds_at_once:
            return self._pool.run("search", deadline, partial(self._look_up, question.name))
        entry = self._pool.run("search", deadline, partial(self._find, question.name))
        if entry is None:
            self._pretend(question, deadline)
            return None
        name, groups = self._name_of(entry), list[str]()
        if question.password is not None:
            _require(self._bind(entry.dn, question.password, deadline), name)
        if self._needs_groups:
            groups = self._pool.run("search", deadline, partial(self._groups, entry, name))
        return self._answer(name, entry, groups, question.password is not None)

    def names(self) -> Iterator[str]:
        """Iterate over the names of all users. Raises SourceFailed without `base`, or if nobody may search below it."""
        if not self._looks_up:
            raise SourceFailed("users cannot be listed without bind_dn")
        if self._settings.base is None:
            raise SourceFailed("users cannot be listed without base")
        names: list[str] = []

        def collect(connection: Connection, deadline: Deadline) -> None:
            names.clear()
            text = self._settings.filter.replace("{name}", "*")
            base = self._settings.base or ""
            for page in connection.pages(base, self._settings.scope, text, [self._name], deadline):
                names.extend(self._name_of(entry) for entry in page)

        self._pool.run("search", deadline_after(_LISTING), collect)
        return iter(names)

    def probe(self) -> None:
        """Log in to each server, and read the entry below which the users are. Raises SourceFailed if none works.

        Where only users log in, any answer is good: a server may refuse to tell a stranger anything.
        """

        def read(connection: Connection, deadline: Deadline) -> None:
            base = "" if self._binds_at_once else self._settings.base or ""
            try:
                connection.search(base, "base", "(objectClass=*)", ["1.1"], deadline)
            except SourceFailed:
                if not self._binds_at_once:
                    raise

        self._pool.check(deadline_after(self.timeout), read)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    # --- as the service ----------------------------------------------------------------------------

    def _log_in(self, connection: Connection, deadline: Deadline) -> None:
        """Log in the service on a new connection."""
        if self._settings.bind_dn is None or self._password is None:
            return
        if time.monotonic() < self._refused_until:
            raise SourceFailed(self._refusal)
        result = connection.bind(self._settings.bind_dn, self._password, deadline)
        if not result.right or result.denial is not None:
            reason = result.denial.reason if result.denial is not None else "wrong name or password"
            self._refusal = f"the server refuses the login of bind_dn: {reason}"
            self._refused_until = time.monotonic() + _REFUSED
            raise SourceFailed(self._refusal)

    def _find(self, name: str, connection: Connection, deadline: Deadline) -> Entry | None:
        """Return the entry of a user; None if there is none."""
        settings = self._settings
        if self._dn is not None:
            try:
                dn = dn_for(self._dn, name)
                found = connection.search(dn, "base", "(objectClass=*)", self._attributes, deadline)
            except NoSuchEntry:
                return None
        else:
            text = filter_for(settings.filter, {"name": name})
            try:
                found = connection.search(settings.base or "", settings.scope, text, self._attributes, deadline, 2)
            except TooManyEntries:
                raise SourceFailed(_AMBIGUOUS) from None
        if len(found) > 1:
            raise SourceFailed(_AMBIGUOUS)
        return complete(found[0], connection, deadline) if found else None

    def _groups(self, entry: Entry, name: str, connection: Connection, deadline: Deadline) -> list[str]:
        membership = self._settings.membership
        base = membership.base or ""

        def search(text: str) -> list[Entry]:
            try:
                return connection.search(base, "subtree", text, ["1.1"], deadline)
            except TooManyEntries:
                return limited(connection.pages(base, "subtree", text, ["1.1"], deadline))

        return groups_of(entry, name, membership, search)

    # --- as the user -------------------------------------------------------------------------------

    def _bind(self, dn: str, password: str, deadline: Deadline) -> LoginResult:
        if not password:
            return LoginResult(False)
        return self._pool.run("login", deadline, lambda connection, part: connection.bind(dn, password, part))

    def _pretend(self, question: Question, deadline: Deadline) -> None:
        """Bind as nobody: an unknown name takes the same messages as a wrong password."""
        try:
            self._bind(f"cn=nobody,{self._settings.base or 'cn=nowhere'}", question.password or "", deadline)
        except SourceFailed:
            pass  # the name is unknown, whatever the server says to this

    def _ask_as_user(self, name: str, password: str, deadline: Deadline) -> Answer:
        """Return the user after a bind with the template. Without a service, an unknown name is a wrong password."""
        if not password:
            raise WrongPassword
        found = self._pool.run("login", deadline, partial(self._read_as_user, name, password))
        _require(found.result, name)
        if found.entry is None and self._dn is None:
            raise LoginDenied("Login not allowed.", "outside base, or not matched by filter")
        if found.entry is None:
            raise SourceFailed("users may not read their own entries, so that bind_dn is needed")
        return self._answer(self._name_of(found.entry), found.entry, found.groups, True)

    def _look_up(self, name: str, connection: Connection, deadline: Deadline) -> Answer | None:
        """Return the user whom the server shows to strangers. Raises CannotLookUp if it shows them nothing."""
        try:
            entry = self._find(name, connection, deadline)
            if entry is None:
                return None
            name = self._name_of(entry)
            groups = self._groups(entry, name, connection, deadline) if self._needs_groups else []
            return self._answer(name, entry, groups, False)
        except SourceFailed as error:
            raise CannotLookUp(str(error)) from None

    def _read_as_user(self, name: str, password: str, connection: Connection, deadline: Deadline) -> _Found:
        template = self._settings.bind or ""
        own = dn_for(template, name) if self._dn is not None else login_name_for(template, name)
        result = connection.bind(own, password, deadline)
        if not result.right or result.denial is not None:
            return _Found(result, None, ())
        entry = self._find(name, connection, deadline)
        if entry is not None and self._dn is None:
            # The server and the filter may know this name for two accounts, and the password is that of the other one.
            result = connection.bind(entry.dn, password, deadline)
            if not result.right or result.denial is not None:
                return _Found(result, None, ())
        if entry is None or not self._needs_groups:
            return _Found(result, entry, ())
        return _Found(result, entry, self._groups(entry, self._name_of(entry), connection, deadline))

    # --- the answer --------------------------------------------------------------------------------

    def _name_of(self, entry: Entry) -> str:
        """Return the canonical name of a user: of several values, the one in the distinguished name."""
        names = entry.texts(self._name)
        if not names:
            raise SourceFailed(f"the entry {entry.dn} has no attribute {self._name}, or does not show it to bind_dn")
        first = first_values(entry.dn)
        name = next((each for each in names if folded(each) in first), min(names))
        if not _is_usable(name):
            raise SourceFailed(f"{self._name} of the entry {entry.dn} cannot be the name of a user")
        return name

    def _answer(self, name: str, entry: Entry, groups: Sequence[str], verified: bool) -> Answer:
        settings, known = self._settings, GroupNames(groups)
        if settings.required_groups and not any(each in known for each in settings.required_groups):
            raise LoginDenied("Login not allowed: not a member of a group that may log in.", "group")
        record = make_record(entry, settings.attributes, settings.values)
        ours = known.ours(settings.groups)
        if ours:
            constant = record.get("groups")
            record["groups"] = [*(constant if isinstance(constant, list) else ()), *ours]
        return Answer(name, record, verified)


_AMBIGUOUS = "more than one entry matches the filter for this name"


def _is_usable(name: str) -> bool:
    """Return whether a name can be that of a user. The name may be of any origin."""
    return 0 < len(name) <= _LONGEST_NAME and name.isprintable()


def _require(result: LoginResult, name: str) -> None:
    """Raise WrongPassword or LoginDenied unless a bind has succeeded."""
    if result.denial is not None:
        raise LoginDenied(result.denial.text, result.denial.reason)
    if not result.right:
        raise WrongPassword(name)
