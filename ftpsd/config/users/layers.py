"""The defaults and the groups of `users.yaml` and `groups.d`, and what a user gets from them: Layers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ftpsd.config.checks import check_limits
from ftpsd.config.convert import structure
from ftpsd.config.faults import Fault
from ftpsd.config.sections.folders import FolderSettings
from ftpsd.config.sections.groups import GroupSettings, SharedSettings
from ftpsd.config.sections.values import Value
from ftpsd.config.settings import QuotaSettings, UserSettings
from ftpsd.config.users.checks import Place, check_user
from ftpsd.config.users.directory import UserFiles
from ftpsd.config.users.folders import CommonFolders, FolderFinder, load_common_folders, own_folders, templates
from ftpsd.config.users.merge import Record, merge
from ftpsd.config.users.names import problem
from ftpsd.config.yaml import Document

#: Keys that no group can have, and the remedy.
PERSONAL = {
    "password": "Give each user one: a password that several people know is soon known to others.",
    "totp": "Give each user one.",
    "certificates": "Name them at their users: a group's would be enough to log in as each of its members.",
    "groups": "Name all groups at the users: a group cannot be in another one.",
}


#: Checks settings that have the right types: adds a fault to the place for each that cannot be used.
Check = Callable[[Place, UserSettings], None]


class Sections(NamedTuple):
    """The values of the sections of `users.yaml`."""

    defaults: dict[str, Value]
    groups: dict[str, Value]
    users: dict[str, Value]
    folders: Value


class Layers:
    """What users have in common. The records have no faults: what was wrong in them is left out."""

    def __init__(
        self,
        defaults: Record | None = None,
        groups: Mapping[str, Record] | None = None,
        shared: Mapping[str, SharedSettings] | None = None,
        folders: CommonFolders | None = None,
        finder: FolderFinder | None = None,
    ) -> None:
        self.defaults = defaults or {}
        self.groups = groups or {}
        #: What the members of a group share; only groups that have such limits.
        self.shared = shared or {}
        #: Folders for all users or for some.
        self.folders = folders or CommonFolders()
        #: Knows the directories of all folders.
        self.finder = finder
        self._remedies: dict[str, str] = {}
        #: Layers with a folder whose path has {user}.
        self._with_user = {
            name for name, record in {"": self.defaults, **self.groups}.items() if any(templates(record.get("folders")))
        }
        self._folders_with_user = any(self.folders.templates())

    def groups_of(self, values: Record) -> list[str]:
        """Return the names of the groups of a user, each once, in their order."""
        names = values["groups"] if "groups" in values else self.defaults.get("groups")
        return [name for name in dict.fromkeys(_strings(names)) if name in self.groups]

    def merge(self, name: str, values: Record) -> dict[str, Value]:
        """Return a user's keys, merged with those of the groups and the defaults, and with the folders for the user."""
        names = self.groups_of(values)
        merged = merge(self.defaults, [*(self.groups[name] for name in names), values])
        merged = self.folders.add_to(merged, name, names)
        return {**merged, "groups": list(names)} if names else merged

    def has_folders_by_name(self, values: Record) -> bool:
        """Return whether the folders of a user with these keys may depend on the name."""
        if not self._with_user and not self._folders_with_user:
            return False
        return self._folders_with_user or bool(self._with_user.intersection(["", *self.groups_of(values)]))

    def folder_templates(self) -> Iterator[str]:
        """Yield the paths with {user} of folders that are directories of this machine."""
        for record in (self.defaults, *self.groups.values()):
            yield from templates(record.get("folders"), local=True)
        yield from self.folders.templates(local=True)

    def own_folders(self) -> Iterator[FolderSettings]:
        """Yield all folders with {user} that are directories of this machine."""
        for record in (self.defaults, *self.groups.values()):
            yield from own_folders(record.get("folders"))
        yield from self.folders.own()

    def get(self, values: Record, key: str) -> Value:
        """Return one of the keys that are no sections and that the last layer decides, as `merge` would."""
        if key in values:
            return values[key]
        having = (self.groups[name] for name in reversed(self.groups_of(values)) if key in self.groups[name])
        return next(having, self.defaults).get(key)

    def check_groups(self, place: Place, values: Record) -> None:
        """Add a fault for each name in `groups` that no group has."""
        names = values.get("groups")
        for index, name in enumerate(names if isinstance(names, list) else ()):
            if isinstance(name, str) and name not in self.groups:
                place.fault(("groups", index), f"there is no group {name}", self._remedy(name))

    def quotas(self, names: Iterable[str]) -> list[str]:
        """Return which of these groups have a quota that their members share."""
        return [name for name in names if name in self.shared and self.shared[name].quota != QuotaSettings()]

    def _remedy(self, name: str) -> str:
        """Return the remedy for a name that no group has; it is kept, since many users may have the same fault."""
        if name not in self._remedies:
            near = difflib.get_close_matches(name, self.groups, 1, 0.6)
            add = f"Add it below groups: in users.yaml, or as groups.d/{name}.yaml."
            self._remedies[name] = f"Did you mean {near[0]}?" if near else add
        return self._remedies[name]


def load_layers(
    document: Document, sections: Sections, files: UserFiles | None, resumption: bool, finder: FolderFinder
) -> tuple[Layers, list[Fault]]:
    """Return what `users.yaml` has besides users, with the groups of a directory; and the faults of its files.

    The faults in `users.yaml` are those of the document.
    """
    groups = sections.groups

    def check(place: Place, settings: UserSettings) -> None:
        check_user(place, settings, resumption)
        finder.check(place, settings.folders)

    reader = _Reader(check)
    for name, values in groups.items():
        reader.add(name, values, Place(document, ("groups", name)))
    faults = []
    if files is not None:
        for name, each in files.documents():
            files.check(each, name, document, groups)
            reader.add(name, None if each.faults else each.value, Place(each, ()))
            faults += each.faults
    common = _without_faults(Place(document, ("defaults",)), sections.defaults, UserSettings, check)
    if common.pop("totp", None) is not None:  # whoever has one code would have those of all users
        Place(document, ("defaults",)).fault(("totp",), "cannot be a default", PERSONAL["totp"])
    folders = load_common_folders(document, sections.folders, reader.groups, finder)
    layers = Layers(common, reader.groups, reader.shared, folders, finder)
    layers.check_groups(Place(document, ("defaults",)), common)
    return layers, faults


class _Reader:
    """Collects groups."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self.groups: dict[str, Record] = {}
        self.shared: dict[str, SharedSettings] = {}

    def add(self, name: str, values: Value, place: Place) -> None:
        """Add a group. One with faults exists, too, so that its members have none."""
        self.groups[name] = {}
        wrong = problem(name)
        if wrong is not None:
            place.fault((), f"the name of the group {wrong}", "Choose another name.")
        if values is None:
            return
        if not isinstance(values, dict):
            place.fault((), "must be a mapping", "Write the keys of the group below its name, indented.")
            return
        for key, remedy in PERSONAL.items():
            if key in values:
                place.fault((key,), "cannot be a key of a group", remedy)
        own = {key: value for key, value in values.items() if key not in PERSONAL}
        good = _without_faults(place, own, GroupSettings, self._check)
        shared = good.pop("shared", None)
        self.groups[name] = good
        found = structure(place.document, shared, SharedSettings, (*place.key, "shared"))
        if found is not None and found != SharedSettings():
            self.shared[name] = found


def _without_faults(place: Place, values: dict[str, Value], cls: type[UserSettings], check: Check) -> dict[str, Value]:
    """Check the keys of the defaults or of a group, and return those without a fault: it is not repeated per user."""
    before = len(place.document.faults)
    _check(place, values, cls, check)
    if len(place.document.faults) == before:
        return dict(values)
    return {name: value for name, value in values.items() if _is_good({name: value}, cls, check)}


def _is_good(values: dict[str, Value], cls: type[UserSettings], check: Check) -> bool:
    document = Document(Path(), lines={(): 0})
    _check(Place(document, ()), values, cls, check)
    return not document.faults


def _check(place: Place, values: dict[str, Value], cls: type[UserSettings], check: Check) -> None:
    settings = structure(place.document, values, cls, place.key)
    if settings is None:
        return
    check(place, settings)
    if isinstance(settings, GroupSettings):
        check_limits(place.document, settings.shared.limits, (*place.key, "shared", "limits"))


def _strings(value: Value) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
