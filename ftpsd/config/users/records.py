"""Turn the record of a user in a source into settings: RecordBuilder.

A record has the keys of one user in `users.yaml`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from functools import cached_property
from itertools import islice
from pathlib import Path

import attrs

from ftpsd.accounts.user_store import InvalidRecord
from ftpsd.config import scalars
from ftpsd.config.convert import structure
from ftpsd.config.faults import Fault, Key
from ftpsd.config.sections.storage import StorePlace
from ftpsd.config.sections.values import Value
from ftpsd.config.settings import QuotaSettings, UserSettings
from ftpsd.config.users.checks import Place, check_user
from ftpsd.config.users.folders import Folders, folder_key, folders_of, is_nested, overlap_fault, place_of
from ftpsd.config.users.homes import home_of, overlapping, parents, require_store, trusted_path
from ftpsd.config.users.layers import Layers
from ftpsd.config.yaml import Document
from ftpsd.protocol.paths import VirtualPath, with_ancestors
from ftpsd.system import landlock

#: The deepest nesting, the most values and the most characters of a record. A source may be broken or hostile.
_DEEPEST, _MOST_VALUES, _MOST_CHARACTERS = 8, 10_000, 100_000

#: No setting needs a larger number, and Python refuses to print one of some thousand digits.
_LARGEST_NUMBER = 2**63 - 1

#: Characters that no text may have: a NUL, and half of a surrogate pair.
_NOT_IN_TEXT = re.compile("[\0\ud800-\udfff]")

#: How many faults of a record are told, and how long each may be: a log line has all of them.
_MOST_FAULTS, _LONGEST_FAULT = 3, 300


class RecordBuilder:
    """Builds settings of users whom sources know. In any thread; blocks.

    `base` is the directory of `users.yaml`, to which homes are relative; `layers` has the defaults and groups of that
    file. Homes must lie below the directories `homes`, and neither in nor around `public`, the home of anonymous users.
    `counted` are the homes and folders of the YAML files that have a quota, `stores` the names of all stores.
    """

    def __init__(
        self,
        base: Path,
        layers: Layers,
        resumption: bool,
        homes: Iterable[str],
        public: str | None = None,
        counted: Set[str] = frozenset(),
        stores: Collection[str] = (),
    ) -> None:
        self._base = base
        self._layers = layers
        self._resumption = resumption
        self._homes = sorted(homes)
        self._public = public
        self._counted = counted
        self._stores = stores

    def build(self, name: str, values: Mapping[str, Value]) -> UserSettings:
        """Return the settings of a user, merged with the groups and defaults; `home` has no symbolic links.

        Raises InvalidRecord with every fault. A group that does not exist is one: it may be what restricts the user.
        """
        document = Document(Path(), lines={(): 0})
        place = Place(document, ())
        problem = _unusable(values)
        if problem is not None:
            raise InvalidRecord(problem)
        self._layers.check_groups(place, values)
        settings = structure(document, self._layers.merge(name, values), UserSettings)
        if settings is not None:
            check_user(place, settings, self._resumption)
            home, folders = (
                self._home(document, name, settings.home),
                self._folders(document, folders_of(settings.folders, name)),
            )
            settings = attrs.evolve(settings, home=home, folders=folders)
            self._check_overlaps(document, settings)
        if settings is None or document.faults:
            raise InvalidRecord(" ".join(map(_text, islice(document.faults, _MOST_FAULTS))))
        return settings

    def _home(self, document: Document, name: str, home: str | None) -> str | None:
        if not home:
            document.fault(("home",), "is missing", "Add the directory that is the user's root.")
            return None
        if "/" in name or name in ("", ".", ".."):
            document.fault((), "is not a valid user name", "Write a name without /.")
            return None
        found = self._directory(document, ("home",), home_of(home, name, self._base))
        if self._public is not None and overlapping(self._public, [found]):
            problem = f"{found} and the home of anonymous users are the same or lie in each other"
            document.fault(("home",), problem, "Choose a separate directory.")
        return found

    def _folders(self, document: Document, folders: Folders) -> Folders:
        """Return folders with the paths of their directories, without symbolic links."""
        found = {}
        for at, folder in folders.items():
            key = folder_key(at, folder)
            try:
                found[at] = attrs.evolve(folder, path=self._directory(document, key, place_of(folder, self._base)))
            except scalars.InvalidValue as error:
                document.fault((*key[:-1], "path"), error.problem, error.remedy)
        return found

    def _check_overlaps(self, document: Document, user: UserSettings) -> None:
        """Add a fault for a home or folder around or in a folder of the YAML files, if one of both is counted.

        Add one for a folder around or in the home or another folder of the user, or a counted home of the YAML files.
        """
        is_counted = user.quota != QuotaSettings() or bool(self._layers.quotas(user.groups))
        places: list[tuple[Key, str, bool]] = [(("home",), user.home or "", is_counted)]
        for at, folder in user.folders.items():
            if folder.is_written:
                places.append((("folders", str(VirtualPath(at))), folder.path, folder.quota != QuotaSettings()))
        finder = self._layers.finder
        for index, (key, path, counted) in enumerate(places):
            other = finder.overlap(path, counted) if finder is not None else None
            own = (each for _, each, too in places[:index] if (counted or too) and is_nested(path, each))
            beside = self._counted_beside(path) if index else self._own_folders_in(path, counted)
            other = other or next(own, None) or beside
            if other is not None:
                document.fault(key, *overlap_fault(path, other))

    def _own_folders_in(self, home: str, is_counted: bool) -> str | None:
        """Return the directory of own folders of users that is the home or lies in it, if one of both is counted."""
        inside = (above for above, counted in self._own_folders if counted or is_counted)
        return next((above for above in inside if f"{above}/".startswith(f"{home.rstrip('/')}/")), None)

    @cached_property
    def _own_folders(self) -> Sequence[tuple[str, bool]]:
        """The directories in which folders with {user} are that users can change, and whether they have a quota."""
        return [
            (above, folder.quota != QuotaSettings())
            for folder in self._layers.own_folders()
            if folder.is_written
            for above in parents(self._base, [folder.path], ())
        ]

    def _counted_beside(self, folder: str) -> str | None:
        """Return a counted home of the YAML files that contains the folder or lies in it; None if there is none."""
        around = next((each for each in map(str, Path(folder).parents) if each in self._counted), None)
        if around is not None or folder not in self._above_counted:
            return around
        return next((each for each in self._counted if is_nested(folder, each)), None)

    @cached_property
    def _above_counted(self) -> Set[str]:
        """The directories that contain a counted home. There may be 100,000 homes."""
        return with_ancestors(os.path.dirname(each) for each in self._counted)

    def _directory(self, document: Document, key: Key, path: str) -> str:
        """Return the path of a home or folder without symbolic links. Add a fault if it cannot be used."""
        if isinstance(path, StorePlace):
            require_store(document, key, path, self._stores)
            return path
        try:
            found = trusted_path(path)
        except PermissionError as error:
            document.fault(key, f"{error.filename} is a link that is not root's", "Name the directory itself.")
            return path
        if not any(found.startswith(f"{above.rstrip('/')}/") for above in self._homes):
            remedy = f"Add {os.path.dirname(found)} to sandbox.homes in ftpsd.yaml, and restart the daemon."
            document.fault(key, f"{found} does not lie below any entry of sandbox.homes", remedy)
        elif not os.path.isdir(found):
            document.fault(key, f"{found} is not a directory", f"Create it: install -d {found}")
        elif landlock.is_denied_home(found):
            document.fault(key, f"{found} is outside of the sandbox", landlock.RESTART)
        return found


def _text(fault: Fault) -> str:
    return f"{fault.key}: {fault.problem}"[:_LONGEST_FAULT] + f". {fault.remedy[:_LONGEST_FAULT]}"


def _unusable(values: object) -> str | None:
    """Return why a record cannot even be looked at: wrong types, or too large. Return None if it can."""
    if not isinstance(values, Mapping):
        return "the record is not a mapping"
    level: list[object] = [dict(values)]
    count = characters = 0
    for _ in range(_DEEPEST):
        count += len(level)
        characters += sum(len(each) for each in level if isinstance(each, str))
        if count > _MOST_VALUES or characters > _MOST_CHARACTERS:
            return "the record is too large"
        below: list[object] = []
        for each in level:
            if isinstance(each, dict):
                if not all(isinstance(key, str) for key in each):
                    return "a key is not a string"
                below += [*each.keys(), *each.values()]
            elif isinstance(each, list):
                below += each
            elif not _is_scalar(each):
                return "a value is not plain text, a number or a boolean, or it is too large"
        if not below:
            return None
        level = below
    return "the record is nested too deeply"


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return value.isprintable() or not _NOT_IN_TEXT.search(value)
    if isinstance(value, int):
        return abs(value) <= _LARGEST_NUMBER
    return value is None or isinstance(value, float)
