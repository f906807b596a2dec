"""`users.yaml` to users: many of them in little time, with every fault."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from stat import S_ISDIR
from typing import Any, get_args

import attrs

from ftpsd.accounts import hashes
from ftpsd.accounts.user_store import Homes
from ftpsd.accounts.yaml_store import UserTable, YamlUserStore
from ftpsd.config.convert import structure
from ftpsd.config.settings import Limits, QuotaSettings, UserLimits, UserSettings
from ftpsd.config.waiting import Waiting
from ftpsd.config.yaml import Document, Fault, Key, did_you_mean, read
from ftpsd.limits.token_bucket import LEAST
from ftpsd.protocol.paths import outermost
from ftpsd.system import landlock

#: Sections in which a user's keys are laid over those of the defaults one by one.
_SECTIONS = ("limits", "names", "networks", "quota", "tls")

#: Hashes that are verified for names that do not exist, at most.
_DECOYS = 256


def load_users(
    path: Path, resumption: bool, waiting: Waiting | None = None
) -> tuple[YamlUserStore | None, list[Fault]]:
    """The users with the defaults worked in, and what is wrong with them.

    `resumption` is whether `ftpsd.yaml` lets TLS sessions be resumed at all.
    """
    waiting = waiting or Waiting()
    waiting.begin(Document(path), (), path)
    document = read(path)
    waiting.end()
    if not document.faults and document.value is None:  # what a full disk leaves of a file that is written anew
        document.fault((), "the file is empty", "Write `users: {}` if there are to be none.")
    if document.faults:
        return None, document.faults
    top = document.value if isinstance(document.value, dict) else {}
    if not isinstance(document.value, dict):
        document.fault((), "keys are expected", "Start with users:")
    for name in top:
        if name not in ("defaults", "users"):
            document.fault((name,), "is not a key that is known here", did_you_mean(name, ("defaults", "users")))
    defaults, given = ({} if top.get(key) is None else top[key] for key in ("defaults", "users"))
    structure(document, defaults, UserSettings, ("defaults",))
    if not isinstance(given, dict) or not isinstance(defaults, dict):
        document.fault(
            ("users",),
            "names are expected below this key",
            "Write each user's name with a colon, and its keys indented.",
        )
        return None, document.faults
    loading = _Loading(document, defaults, resumption, waiting)
    while given:  # one by one: to free all at once would stop the sessions for a moment
        loading.add(*given.popitem())
    return loading.result(), document.faults


class _Loading:
    """The users of a file, as far as they are loaded."""

    def __init__(self, document: Document, defaults: dict[str, Any], resumption: bool, waiting: Waiting) -> None:
        self._document = document
        self._defaults = defaults
        self._resumption = resumption
        self._base = str(document.path.parent)
        self._homes = _Homes(waiting)
        self._users = UserTable()
        #: The numbers of kinds by what the file says of them.
        self._kinds: dict[str, int] = {}
        self._with_quota: set[int] = set()
        self._templates = {defaults.get("home")}
        self._all: set[str] = set()
        self._counted: set[str] = set()
        self._passwords: list[str] = []

    def add(self, name: str, values: Any) -> None:
        """Load one user; the document gets its faults."""
        key: Key = ("users", name)
        if values is not None and not isinstance(values, dict):
            self._document.fault(key, "keys are expected below a user's name", "Write password: and home: indented.")
            return
        values = values or {}
        password = values["password"] if "password" in values else self._defaults.get("password")
        home = values["home"] if "home" in values else self._defaults.get("home")
        kind = self._kind(key, values, password, home)
        if isinstance(home, str) and "{user}" in home:
            self._templates.add(home)
        if kind is None:
            return
        if password is None:
            self._document.fault((*key, "password"), "is missing", "Add the hash that `ftpsd passwd` prints.")
        elif not hashes.known(password):
            remedy = "Write what `ftpsd passwd` prints, in quotes."
            self._document.fault((*key, "password"), "is no hash that is known here", remedy)
        found = self._home(key, name, home)
        if found is None or password is None:
            return
        self._users.add(name, kind, password, found)
        self._passwords.append(password)
        if len(self._passwords) > 8 * _DECOYS:
            self._passwords = sorted(self._passwords)[:_DECOYS]
        self._all.add(found)
        if kind in self._with_quota:
            self._counted.add(found)

    # --- what users have in common -----------------------------------------------------------------

    def _kind(self, key: Key, values: dict[str, Any], password: Any, home: Any) -> int | None:
        """Return the number of a user's settings without password and home; None if they, or these, are faulty."""
        rest = {name: value for name, value in values.items() if name not in ("password", "home")}
        told = repr(rest) if rest else ""
        kind = self._kinds.get(told)
        if kind is None or type(password) is not str or type(home) is not str:
            merged = {**_with_defaults(self._defaults, rest), "password": password, "home": home}
            kind = self._new_kind(key, merged)
            if kind is not None:
                self._kinds[told] = kind
        return kind

    def _new_kind(self, key: Key, merged: dict[str, Any]) -> int | None:
        before = len(self._document.faults)
        given = {name: value for name, value in merged.items() if value is not None or name not in ("password", "home")}
        user = structure(self._document, given, UserSettings, key)
        if user is None or len(self._document.faults) > before:
            return None
        check_limits(self._document, user.limits, (*key, "limits"))
        self._check_data_session(key, user)
        kind = self._users.add_kind(attrs.evolve(user, password=None, home=None))
        if user.quota != QuotaSettings():
            self._with_quota.add(kind)
        return kind if len(self._document.faults) == before else None

    def _check_data_session(self, key: Key, user: UserSettings) -> None:
        if user.tls.data_session == "require" and not self._resumption:
            # A session's TLS begins before anybody knows who the user will be.
            self._document.fault(
                (*key, "tls", "data_session"),
                "require cannot be met: ftpsd.yaml has tls.data_session: off",
                "Write allow there, which asks nothing of the other users.",
            )

    # --- homes -------------------------------------------------------------------------------------

    def _home(self, key: Key, name: str, home: str | None) -> str | None:
        fault = self._document.fault
        if home is None:
            fault((*key, "home"), "is missing", "Add the directory that is the user's root.")
        elif not home:
            fault((*key, "home"), "is empty", "Write the directory that is the user's root.")
        elif "/" in name or name in ("", ".", ".."):
            fault(key, "is no name for a user", "Write a name without /.")
        else:
            path = home.replace("{user}", name)
            path = path if path.startswith("/") else f"{self._base}/{path}"
            found = self._homes.find(self._document, (*key, "home"), path)
            if found is None:
                fault((*key, "home"), f"{path} is not a directory", f"Create it: install -d {path}")
            elif self._homes.shut_out(path):
                fault((*key, "home"), f"{path} lies outside of the sandbox", landlock.RESTART)
            else:
                return found
        return None

    def result(self) -> YamlUserStore:
        """Return the store of all users."""
        parents = _parents(self._base, self._templates, self._all)
        homes = Homes(self._all, self._counted, outermost(self._all), parents)
        return YamlUserStore(self._users, homes, sorted(self._passwords)[:_DECOYS])


class _Homes:
    """Where homes are. What lies above them is looked at once."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._real: dict[str, str] = {}
        self._opened: dict[str, bool] = {}

    def find(self, document: Document, key: Key, home: str) -> str | None:
        """Return where a home is, without links; None where there is no directory."""
        self._waiting.begin(document, key, home)
        try:
            above, _, base = home.rpartition("/")
            if base in ("", ".", ".."):
                return _resolve(home)
            real = self._real.get(above)
            if real is None:
                real = self._real[above] = os.path.realpath(above or "/").rstrip("/")
            try:
                mode = os.lstat(f"{real}/{base}").st_mode
            except (OSError, ValueError):
                return None
            return f"{real}/{base}" if S_ISDIR(mode) else _resolve(home)
        finally:
            self._waiting.end()

    def shut_out(self, home: str) -> bool:
        """Return whether Landlock keeps a home from us. It does not where the directory above can be opened."""
        above = home.rpartition("/")[0] or "/"
        opened = self._opened.get(above)
        if opened is None:
            opened = self._opened[above] = _can_open(above)
        return not opened and landlock.shut_out(home)


def _resolve(home: str) -> str | None:
    return os.path.realpath(home) if os.path.isdir(home) else None


def _can_open(directory: str) -> bool:
    try:
        os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _with_defaults(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A user's keys over the defaults, within sections key by key: one limit does not lift the others."""
    merged = {**defaults, **values}
    for name in _SECTIONS:
        common, own = defaults.get(name), values.get(name)
        if isinstance(common, dict) and isinstance(own, dict):
            merged[name] = {**common, **own}
    return merged


def _parents(base: str, homes: Iterable[Any], found: Iterable[str]) -> frozenset[str]:
    """Where homes are: what stands before {user}, and the directory that each home lies in.

    A home is made, replaced or mounted beside others, and must be found there without a restart. Nothing
    lies beside a home that is directly below /: it stands for itself.
    """
    templates = [os.path.join(base, home) for home in homes if isinstance(home, str) and "{user}" in home]
    all_homes = [*found, *(os.path.realpath(each.partition("{user}")[0] + "{user}") for each in templates)]
    return frozenset(os.path.dirname(home).rstrip("/") or home for home in all_homes)


def check_limits(document: Document, limits: Limits | UserLimits, key: Key) -> None:
    """Nothing may be zero: with other servers that means no limit, and here it would stop everything."""
    for each in attrs.fields(attrs.resolve_types(type(limits))):
        value, least = getattr(limits, each.name), LEAST if each.name.endswith("_rate") else 1
        if value is not None and value < least:
            or_null = ", or null" if type(None) in get_args(each.type) else ""
            document.fault((*key, each.name), f"{value} is too little", f"Write a number from {least}{or_null}.")
