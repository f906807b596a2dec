"""Load the users of `users.yaml` and `users.d`: 100,000 of them within seconds, and with every fault."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from pathlib import Path

import attrs

from ftpsd.accounts import hashes
from ftpsd.accounts.user_store import Homes
from ftpsd.accounts.yaml_store import UserTable, YamlUserStore
from ftpsd.config.convert import structure
from ftpsd.config.disk_watch import DiskWatch
from ftpsd.config.faults import Fault, Key, suggestion
from ftpsd.config.sections.storage import StoreHome, is_in_store
from ftpsd.config.sections.values import Value
from ftpsd.config.settings import QuotaSettings, UserSettings
from ftpsd.config.users.checks import Place, check_user
from ftpsd.config.users.directory import UserFiles
from ftpsd.config.users.folders import FolderFinder, folders_of, templates
from ftpsd.config.users.homes import HomeFinder, home_of, parents
from ftpsd.config.users.layers import Layers, Sections, load_layers
from ftpsd.config.yaml import Document, read
from ftpsd.limits.member_homes import MemberHomes
from ftpsd.protocol.paths import outermost
from ftpsd.system.memory.large import LargeList, LargeSet

#: The most hashes that are verified for names that do not exist.
_DECOYS = 256


@attrs.frozen
class LoadedUsers:
    """The users of the YAML files, and what they have in common. The store is None if the files cannot be read."""

    store: YamlUserStore | None
    layers: Layers
    faults: list[Fault]
    #: The directories that are folders, but nobody's home.
    folders: Set[str] = frozenset()


def load_users(
    path: Path,
    resumption: bool,
    watch: DiskWatch | None = None,
    files: UserFiles | None = None,
    group_files: UserFiles | None = None,
    stores: Collection[str] = (),
) -> LoadedUsers:
    """Return the users and groups of a file, and of the files of two directories; and the faults of all these files.

    `resumption` is whether `ftpsd.yaml` lets data connections resume TLS sessions, `stores` are
    the names of its stores.
    """
    watch = watch or DiskWatch()
    watch.begin(Document(path), (), path)
    document = read(path)
    watch.end()
    if not document.faults and document.value is None:  # a full disk leaves such a file when it is written again
        document.fault((), "the file is empty", "Write `users: {}` for no users.")
    top = _sections(document) if not document.faults else None
    if top is None:
        return LoadedUsers(None, Layers(), document.faults)
    users, finder = top.users, HomeFinder(watch, stores)
    folders = FolderFinder(path.parent, finder)
    layers, group_faults = load_layers(document, top, group_files, resumption, folders)
    loader = _Loader(path.parent, layers, resumption, finder, folders)
    faults = _add_files(loader, files, document, users) if files is not None else []
    while users:  # one by one: to free all values in one step would stop the sessions for a moment
        name, values = users.popitem()
        loader.add(name, values, Place(document, ("users", name)))
    only_folders = folders.all - loader.homes
    store = loader.store()
    overlaps = folders.overlaps(store.homes.all, store.homes.with_quota)
    return LoadedUsers(store, layers, [*document.faults, *group_faults, *faults, *overlaps], only_folders)


def _add_files(loader: _Loader, files: UserFiles, document: Document, users: Mapping[str, Value]) -> list[Fault]:
    """Add the users of a directory; return the faults of their files. `users` are those of `document`."""
    faults = []
    for name, each in files.documents():
        files.check(each, name, document, users)
        if not each.faults:
            loader.add(name, each.value, Place(each, ()))
        faults += each.faults
    return faults


def _sections(document: Document) -> Sections | None:
    """Return the values of all sections, and check that there are no others.

    Return None if one of `defaults`, `groups` and `users` is no mapping.
    """
    top = document.value
    if not isinstance(top, dict):
        document.fault((), "the file must be a mapping", "Start with users:")
        top = {}
    for name in top:
        if name not in Sections._fields:
            document.fault((name,), "unknown key", suggestion(name, Sections._fields))
    defaults, groups, users = ({} if top.get(name) is None else top[name] for name in ("defaults", "groups", "users"))
    if not isinstance(defaults, dict):
        structure(document, defaults, UserSettings, ("defaults",))
        return None
    for name, section in (("groups", groups), ("users", users)):
        if not isinstance(section, dict):
            remedy = "Write each name with a colon, and its keys below it, indented."
            document.fault((name,), "must be a mapping of names", remedy)
    if not isinstance(groups, dict) or not isinstance(users, dict):
        return None
    return Sections(defaults, groups, users, top.get("folders"))


class _Loader:
    """Adds the users of a file to a store, and their faults to the document. Homes are relative to `base`."""

    def __init__(self, base: Path, layers: Layers, resumption: bool, finder: HomeFinder, folders: FolderFinder) -> None:
        self._base = base
        self._layers = layers
        self._resumption = resumption
        self._finder = finder
        self._folders = folders
        self._users = UserTable()
        #: The numbers of kinds (see `UserTable`), by the text of a user's values.
        self._kinds: dict[str, int] = {}
        #: Settings of users with {user} in a folder, by the same text: each of them has a kind of its own.
        self._settings: dict[str, UserSettings] = {}
        #: Of each kind: the sets of homes to which that of a user belongs, beside the set of all.
        self._sets: list[list[LargeSet[str]]] = []
        #: All values of `home`, and paths of folders, that contain {user}.
        self._templates: set[str] = set()
        for record in (layers.defaults, *layers.groups.values()):
            self._note_template(record.get("home"))
        self._templates.update(layers.folder_templates())
        #: The homes of all users so far.
        self.homes: LargeSet[str] = LargeSet()
        self._homes_with_quota: LargeSet[str] = LargeSet()
        #: By group with a shared quota: the homes of its members.
        self._homes_of_groups = {name: MemberHomes() for name in layers.quotas(layers.shared)}
        self._passwords: list[str] = []

    def add(self, name: str, values: Value, place: Place) -> None:
        """Add one user."""
        if values is None:
            values = {}
        if not isinstance(values, dict):
            place.fault((), "must be a mapping", "Write password: and home: below the name, indented.")
            return
        password, home = self._layers.get(values, "password"), self._layers.get(values, "home")
        kind = self._kind(name, place, values, password, home)
        self._note_template(home)
        if kind is None:
            return
        hashed, found = self._hash(place, values, password), self._home(place, name, home)
        if hashed is None or found is None:
            return
        self._users.add(name, kind, hashed, found)
        self.homes.add(found)
        for homes in self._sets[kind]:
            homes.add(found)
        self._passwords += [hashed] if hashed else []
        if len(self._passwords) > 8 * _DECOYS:
            self._passwords = sorted(self._passwords)[:_DECOYS]

    def store(self) -> YamlUserStore:
        """Return a store with all users added so far."""
        self.homes |= self._folders.all
        self._homes_with_quota |= self._folders.with_quota
        local = [home for home in self.homes if not is_in_store(home)]
        found = parents(self._base, self._templates, local)
        groups = self._homes_of_groups
        for members in groups.values():
            _ = members.digest  # here, where sessions do not wait for it
        homes = Homes(self.homes, self._homes_with_quota, LargeList(outermost(local)), found, groups)
        return YamlUserStore(self._users, homes, sorted(self._passwords)[:_DECOYS])

    # --- what users have in common -----------------------------------------------------------------

    def _kind(self, name: str, place: Place, values: dict[str, Value], password: Value, home: Value) -> int | None:
        """Return the number of a user's settings without password and home; None if any of them has a fault."""
        rest = {name: value for name, value in values.items() if name not in ("password", "home")}
        text = repr(rest) if rest else ""
        if self._layers.folders:
            text += repr(list(self._layers.folders.of(name, self._layers.groups_of(values))))
        is_plain = type(password) is str and _is_plain(home)
        by_name = "{user}" in text or self._layers.has_folders_by_name(values)
        key = text + repr(name) if by_name else text
        kind = self._kinds.get(key)
        if kind is None or not is_plain:
            faults = place.document.faults
            before = len(faults)
            settings = self._settings.get(text) if is_plain else None
            if settings is None:
                settings = self._convert(name, place, rest, {"password": password, "home": home})
            if settings is None:
                return None
            if by_name and len(faults) == before:
                self._settings[text] = settings
            kind = self._new_kind(name, place, settings)
            if len(faults) > before:
                return None
            self._kinds[key] = kind
        return kind

    def _convert(self, name: str, place: Place, values: dict[str, Value], own: dict[str, Value]) -> UserSettings | None:
        """Return the settings of a user, with {user} in the paths of folders; None if their types are wrong."""
        faults = place.document.faults
        before = len(faults)
        self._layers.check_groups(place, values)
        if self._layers.groups_of(values):  # so that a fault has the place that it has in the file, also in a list
            structure(place.document, values, UserSettings, place.key)
        if len(faults) > before:
            return None
        # What is missing is a fault of its own.
        given = {name: value for name, value in own.items() if value is not None}
        user = structure(place.document, {**self._layers.merge(name, values), **given}, UserSettings, place.key)
        if user is None or len(faults) > before:
            return None
        check_user(place, user, self._resumption)
        self._templates.update(templates(values.get("folders"), local=True))
        return user

    def _new_kind(self, name: str, place: Place, user: UserSettings) -> int:
        """Return the number of a new kind for a user with these settings. A folder may have a fault."""
        found = self._folders.find(place, folders_of(user.folders, name))
        user = attrs.evolve(user, password=None, home=None, folders=found)
        kind = self._users.add_kind(user)
        groups = self._layers.quotas(user.groups)
        is_counted = groups or user.quota != QuotaSettings()
        counted = [self._homes_with_quota] if is_counted else []
        self._sets.append([*counted, *(self._homes_of_groups[name] for name in groups)])
        return kind

    # --- passwords and homes -----------------------------------------------------------------------

    def _hash(self, place: Place, values: dict[str, Value], password: Value) -> str | None:
        """Return the hash; None if there is none. One that cannot be used is a fault, but the home is still checked.

        A user with certificates needs none: the hash is empty, and no password is right.
        """
        if password is None and self._layers.get(values, "certificates"):
            return ""
        if not isinstance(password, str):
            place.fault(("password",), "is missing", "Add the hash that `ftpsd passwd` prints.")
            return None
        if not hashes.is_valid(password):
            remedy = "Write what `ftpsd passwd` prints, in quotes."
            place.fault(("password",), "is not a supported password hash", remedy)
        return password

    def _note_template(self, home: Value) -> None:
        if isinstance(home, str) and "{user}" in home:
            self._templates.add(home)

    def _home(self, place: Place, name: str, home: Value) -> str | None:
        key: Key = ("home",)
        if isinstance(home, dict):
            found = structure(place.document, home, StoreHome, (*place.key, *key))
            return None if found is None else self._find(place, name, found.place)
        if not isinstance(home, str):
            place.fault(key, "is missing", "Add the directory that is the user's root.")
        elif not home:
            place.fault(key, "is empty", "Write the directory that is the user's root.")
        else:
            return self._find(place, name, home)
        return None

    def _find(self, place: Place, name: str, home: str) -> str | None:
        """Return the place that `home` stands for; None, with a fault, if it cannot be used."""
        if "/" in name or name in ("", ".", ".."):
            place.fault((), "is not a valid user name", "Write a name without /.")
            return None
        return self._finder.require(place.document, (*place.key, "home"), home_of(home, name, self._base))


def _is_plain(home: Value) -> bool:
    """Return whether a home has the right types, so that it need not be converted for each user."""
    if isinstance(home, dict):
        return home.keys() == {"storage", "path"} and all(isinstance(each, str) for each in home.values())
    return isinstance(home, str)
