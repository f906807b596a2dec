"""Load the users of `users.yaml`: 100,000 of them within seconds, and with every fault."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from ftpsd.accounts import hashes
from ftpsd.accounts.user_store import Homes
from ftpsd.accounts.yaml_store import UserTable, YamlUserStore
from ftpsd.config.checks import check_limits
from ftpsd.config.convert import structure
from ftpsd.config.disk_watch import DiskWatch
from ftpsd.config.faults import Fault, Key, suggestion
from ftpsd.config.homes import HomeFinder, parents
from ftpsd.config.settings import QuotaSettings, UserSettings
from ftpsd.config.yaml import Document, read
from ftpsd.config.yaml_values import Value
from ftpsd.protocol.paths import outermost
from ftpsd.system import landlock

#: Sections in which a user's keys override those of the defaults one by one.
_SECTIONS = ("limits", "names", "networks", "quota", "tls")

#: The most hashes that are verified for names that do not exist.
_DECOYS = 256


def load_users(
    path: Path, resumption: bool, watch: DiskWatch | None = None
) -> tuple[YamlUserStore | None, list[Fault]]:
    """Return the store of all users, and the faults of the file.

    `resumption` is whether `ftpsd.yaml` lets data connections resume TLS sessions.
    """
    watch = watch or DiskWatch()
    watch.begin(Document(path), (), path)
    document = read(path)
    watch.end()
    if not document.faults and document.value is None:  # a full disk leaves such a file when it is written again
        document.fault((), "the file is empty", "Write `users: {}` for no users.")
    if document.faults:
        return None, document.faults
    defaults, users = _sections(document)
    structure(document, defaults, UserSettings, ("defaults",))
    if not isinstance(users, dict) or not isinstance(defaults, dict):
        document.fault(
            ("users",), "must be a mapping of names", "Write each name with a colon, and its keys below it, indented."
        )
        return None, document.faults
    loader = _Loader(document, defaults, resumption, watch)
    while users:  # one by one: to free all values in one step would stop the sessions for a moment
        loader.add(*users.popitem())
    return loader.store(), document.faults


def _sections(document: Document) -> tuple[Value, Value]:
    """Return the values of `defaults` and `users`, and check that there are no other keys."""
    top = document.value
    if not isinstance(top, dict):
        document.fault((), "the file must be a mapping", "Start with users:")
        top = {}
    for name in top:
        if name not in ("defaults", "users"):
            document.fault((name,), "unknown key", suggestion(name, ("defaults", "users")))
    defaults, users = top.get("defaults"), top.get("users")
    return {} if defaults is None else defaults, {} if users is None else users


class _Loader:
    """Adds the users of a file to a store, and their faults to the document."""

    def __init__(self, document: Document, defaults: dict[str, Value], resumption: bool, watch: DiskWatch) -> None:
        self._document = document
        self._defaults = defaults
        self._resumption = resumption
        self._base = str(document.path.parent)
        self._finder = HomeFinder(watch)
        self._users = UserTable()
        #: The numbers of kinds (see `UserTable`), by the text of a user's values.
        self._kinds: dict[str, int] = {}
        self._kinds_with_quota: set[int] = set()
        #: All values of `home` that contain {user}.
        self._templates: set[str] = set()
        self._note_template(defaults.get("home"))
        self._homes: set[str] = set()
        self._homes_with_quota: set[str] = set()
        self._passwords: list[str] = []

    def add(self, name: str, values: Value) -> None:
        """Add one user."""
        key: Key = ("users", name)
        if values is None:
            values = {}
        if not isinstance(values, dict):
            self._document.fault(key, "must be a mapping", "Write password: and home: below the name, indented.")
            return
        password = values["password"] if "password" in values else self._defaults.get("password")
        home = values["home"] if "home" in values else self._defaults.get("home")
        kind = self._kind(key, values, password, home)
        self._note_template(home)
        if kind is None:
            return
        hashed, found = self._hash(key, password), self._home(key, name, home)
        if hashed is None or found is None:
            return
        self._users.add(name, kind, hashed, found)
        self._homes.add(found)
        if kind in self._kinds_with_quota:
            self._homes_with_quota.add(found)
        self._passwords.append(hashed)
        if len(self._passwords) > 8 * _DECOYS:
            self._passwords = sorted(self._passwords)[:_DECOYS]

    def store(self) -> YamlUserStore:
        """Return a store with all users added so far."""
        found = parents(self._document.path.parent, self._templates, self._homes)
        homes = Homes(self._homes, self._homes_with_quota, outermost(self._homes), found)
        return YamlUserStore(self._users, homes, sorted(self._passwords)[:_DECOYS])

    # --- what users have in common -----------------------------------------------------------------

    def _kind(self, key: Key, values: dict[str, Value], password: Value, home: Value) -> int | None:
        """Return the number of a user's settings without password and home; None if any of them has a fault."""
        rest = {name: value for name, value in values.items() if name not in ("password", "home")}
        text = repr(rest) if rest else ""
        kind = self._kinds.get(text)
        if kind is None or type(password) is not str or type(home) is not str:
            kind = self._new_kind(key, _with_defaults(self._defaults, rest), {"password": password, "home": home})
            if kind is not None:
                self._kinds[text] = kind
        return kind

    def _new_kind(self, key: Key, values: dict[str, Value], own: dict[str, Value]) -> int | None:
        before = len(self._document.faults)
        given = {
            name: value for name, value in own.items() if value is not None
        }  # what is missing is a fault of its own
        user = structure(self._document, {**values, **given}, UserSettings, key)
        if user is None or len(self._document.faults) > before:
            return None
        check_limits(self._document, user.limits, (*key, "limits"))
        self._check_data_session(key, user)
        kind = self._users.add_kind(attrs.evolve(user, password=None, home=None))
        if user.quota != QuotaSettings():
            self._kinds_with_quota.add(kind)
        return kind if len(self._document.faults) == before else None

    def _check_data_session(self, key: Key, user: UserSettings) -> None:
        if user.tls.data_session == "require" and not self._resumption:
            # The TLS of a session begins before its user is known.
            problem = "require is not possible: ftpsd.yaml has tls.data_session: off"
            remedy = "Write allow there, which requires nothing of other users."
            self._document.fault((*key, "tls", "data_session"), problem, remedy)

    # --- passwords and homes -----------------------------------------------------------------------

    def _hash(self, key: Key, password: Value) -> str | None:
        """Return the hash; None if there is none. One that cannot be used is a fault, but the home is still checked."""
        if not isinstance(password, str):
            self._document.fault((*key, "password"), "is missing", "Add the hash that `ftpsd passwd` prints.")
            return None
        if not hashes.is_valid(password):
            remedy = "Write what `ftpsd passwd` prints, in quotes."
            self._document.fault((*key, "password"), "is not a supported password hash", remedy)
        return password

    def _note_template(self, home: Value) -> None:
        if isinstance(home, str) and "{user}" in home:
            self._templates.add(home)

    def _home(self, key: Key, name: str, home: Value) -> str | None:
        fault = self._document.fault
        if not isinstance(home, str):
            fault((*key, "home"), "is missing", "Add the directory that is the user's root.")
        elif not home:
            fault((*key, "home"), "is empty", "Write the directory that is the user's root.")
        elif "/" in name or name in ("", ".", ".."):
            fault(key, "is not a valid user name", "Write a name without /.")
        else:
            path = home.replace("{user}", name)
            path = path if path.startswith("/") else f"{self._base}/{path}"
            found = self._finder.find(self._document, (*key, "home"), path)
            if found is None:
                fault((*key, "home"), f"{path} is not a directory", f"Create it: install -d {path}")
            elif self._finder.shut_out(path):
                fault((*key, "home"), f"{path} is outside of the sandbox", landlock.RESTART)
            else:
                return found
        return None


def _with_defaults(defaults: Mapping[str, Value], values: Mapping[str, Value]) -> dict[str, Value]:
    """Return the defaults with a user's values; within sections key by key, so that one limit keeps the others."""
    merged = {**defaults, **values}
    for name in _SECTIONS:
        common, own = defaults.get(name), values.get(name)
        if isinstance(common, dict) and isinstance(own, dict):
            merged[name] = {**common, **own}
    return merged
