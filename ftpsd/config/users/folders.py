"""The folders of `users.yaml`: which ones are for whom, and whether their directories can be used."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path

import attrs

from ftpsd.config import scalars
from ftpsd.config.convert import structure
from ftpsd.config.faults import Fault, Key, dotted, quoted
from ftpsd.config.sections.folders import FolderSettings
from ftpsd.config.sections.quota import QuotaSettings
from ftpsd.config.sections.storage import place_in
from ftpsd.config.sections.values import Value
from ftpsd.config.settings import UserSettings
from ftpsd.config.users.checks import Place
from ftpsd.config.users.homes import HomeFinder, absolute
from ftpsd.config.users.merge import merge_paths
from ftpsd.config.yaml import Document
from ftpsd.protocol.paths import VirtualPath

#: What an entry of `for` begins with if it names a group.
_GROUP = "group:"

#: The folders of one user, by their paths.
Folders = dict[tuple[str, ...], FolderSettings]

#: What stands for the name of the user in the path of a directory.
_USER = "{user}"


def folders_of(folders: Folders, name: str) -> Folders:
    """Return folders with the name of their user in the place of {user}.

    A name that would lead elsewhere stays out: it is a fault of the home.
    """
    if "/" in name or name in ("", ".", ".."):
        return _fixed(folders)
    return {
        at: attrs.evolve(folder, path=folder.path.replace(_USER, name)) if _USER in folder.path else folder
        for at, folder in folders.items()
    }


def _fixed(folders: Folders) -> Folders:
    """Return the folders that are the same for all users."""
    return {at: folder for at, folder in folders.items() if _USER not in folder.path}


def templates(value: Value, local: bool = False) -> Iterator[str]:
    """Yield the paths with {user} in a value of `folders`; with `local`, those of directories of this machine."""
    for each in value.values() if isinstance(value, dict) else ():
        path = each.get("path") if isinstance(each, dict) and not (local and each.get("storage")) else None
        if isinstance(path, str) and _USER in path:
            yield path


def own_folders(value: Value) -> Iterator[FolderSettings]:
    """Yield the folders with {user} in a value of `folders` that are directories of this machine."""
    user = structure(Document(Path(), lines={(): 0}), {"folders": value}, UserSettings) if value else None
    for folder in user.folders.values() if user is not None else ():
        if folder.storage is None and _USER in folder.path:
            yield folder


class CommonFolders:
    """The folders at the top level of `users.yaml`, each for all users or for some. They have no faults."""

    def __init__(self, entries: Mapping[str, tuple[Value, frozenset[str] | None]] | None = None) -> None:
        #: By path: the keys of the folder, and for whom it is (None: for all).
        self._entries = entries or {}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def of(self, name: str, groups: Iterable[str]) -> dict[str, Value]:
        """Return the folders of a user by their paths, as they would stand at the user."""
        names = {f"{_GROUP}{each}" for each in groups}
        if not name.startswith(_GROUP):  # a source may know a user of such a name, who is in no group by that
            names.add(name)
        return {path: keys for path, (keys, wanted) in self._entries.items() if wanted is None or wanted & names}

    def templates(self, local: bool = False) -> Iterator[str]:
        """Yield the paths with {user} (see `templates`)."""
        return templates({path: keys for path, (keys, _) in self._entries.items()}, local)

    def own(self) -> Iterator[FolderSettings]:
        """Yield the folders with {user} (see `own_folders`)."""
        return own_folders({path: keys for path, (keys, _) in self._entries.items()})

    def add_to(self, values: dict[str, Value], name: str, groups: Iterable[str]) -> dict[str, Value]:
        """Return the merged keys of a user with these folders. Folders of the user at the same paths replace them."""
        found, own = self.of(name, groups) if self else None, values.get("folders")
        if not found or not (own is None or isinstance(own, dict)):
            return values
        return {**values, "folders": merge_paths(found, own or {})}


def load_common_folders(document: Document, value: Value, groups: Iterable[str], finder: FolderFinder) -> CommonFolders:
    """Return the folders at the top level of `users.yaml`. Those with a fault are left out."""
    if value is None:
        return CommonFolders()
    if not isinstance(value, dict):
        remedy = "Write it as {/shared: {path: /srv/shared}}."
        document.fault(("folders",), "must be a mapping of paths to folders", remedy)
        return CommonFolders()
    known = frozenset(groups)
    entries: dict[str, tuple[Value, frozenset[str] | None]] = {}
    seen: set[tuple[str, ...]] = set()
    for path, keys in value.items():
        before = len(document.faults)
        own, wanted = _without_for(document, ("folders", path), keys, known)
        user = structure(document, {"folders": {path: {} if own is None else own}}, UserSettings)
        at = next(iter(user.folders), ()) if user is not None else ()
        if at in seen:
            document.fault(("folders", path), "has the path of another folder", "Remove one of the two.")
        elif user is not None:
            seen.add(at)
            finder.check(Place(document, ()), user.folders)
        if len(document.faults) == before:
            entries[path] = own, wanted
    return CommonFolders(entries)


def _without_for(
    document: Document, key: Key, keys: Value, groups: frozenset[str]
) -> tuple[Value, frozenset[str] | None]:
    """Return the keys of a folder without `for`, and for whom it is (None: for all)."""
    if not isinstance(keys, dict) or "for" not in keys:
        return keys, None
    own = {name: each for name, each in keys.items() if name != "for"}
    return own, None if keys["for"] is None else _wanted(document, (*key, "for"), keys["for"], groups)


def _wanted(document: Document, key: Key, value: Value, groups: frozenset[str]) -> frozenset[str]:
    if not isinstance(value, list):
        document.fault(key, "must be a list", "Write names of users, or group:NAME: [alice, group:staff].")
        return frozenset()
    found = set()
    for index, each in enumerate(value):
        if not isinstance(each, str) or not each:
            document.fault((*key, index), f"{quoted(each)} is not a name", "Write the name of a user, or group:NAME.")
        elif each.startswith(_GROUP) and each.removeprefix(_GROUP) not in groups:
            name = each.removeprefix(_GROUP)
            document.fault((*key, index), f"there is no group {name}", "Add it below groups:, or correct the name.")
        else:
            found.add(each)
    return frozenset(found)


@attrs.define
class _Found:
    """A directory that is a folder: where it was named first, and how it is used."""

    place: Place
    key: Key
    is_counted: bool = False
    is_written: bool = False


def place_of(folder: FolderSettings, base: Path) -> str:
    """Return the place of a folder of a configuration file. `base` is the directory of `users.yaml`.

    Raises InvalidValue.
    """
    if folder.storage is not None:
        return place_in(folder.storage, scalars.store_path(folder.path))
    return absolute(folder.path, base)


def folder_key(at: tuple[str, ...], folder: FolderSettings) -> Key:
    """Return the key that says where a folder is."""
    return ("folders", str(VirtualPath(at)), "path" if folder.storage is None else "storage")


class FolderFinder:
    """Finds the directories of folders, each once."""

    def __init__(self, base: Path, finder: HomeFinder) -> None:
        self._base = base
        self._finder = finder
        self._real: dict[str, str | None] = {}
        #: By directory, without symbolic links.
        self._found: dict[str, _Found] = {}

    def check(self, place: Place, folders: Folders) -> None:
        """Add faults for the folders of several users that cannot be used. Those with {user} are looked at later."""
        self.find(place, _fixed(folders))

    def find(self, place: Place, folders: Folders) -> Folders:
        """Return folders with the paths of their directories, without symbolic links. Add faults for the others."""
        return {
            at: attrs.evolve(folder, path=real)
            for at, folder in folders.items()
            if (real := self._find(place, at, folder)) is not None
        }

    def _find(self, place: Place, at: tuple[str, ...], folder: FolderSettings) -> str | None:
        key = folder_key(at, folder)
        try:
            path = place_of(folder, self._base)
        except scalars.InvalidValue as error:
            place.fault((*key[:-1], "path"), error.problem, error.remedy)
            return None
        if path not in self._real:
            where, create = (*place.key, *key), "Create it for the daemon's user"
            self._real[path] = self._finder.require(place.document, where, path, create)
        real = self._real[path]
        if real is not None:
            found = self._found.setdefault(real, _Found(place, key))
            found.is_counted |= folder.quota != QuotaSettings()
            found.is_written |= folder.is_written
        return real

    @property
    def all(self) -> set[str]:
        """All directories that were found."""
        return set(self._found)

    @property
    def with_quota(self) -> set[str]:
        """Those that have a quota."""
        return {path for path, found in self._found.items() if found.is_counted}

    def overlap(self, place: str, is_counted: bool) -> str | None:
        """Return a folder around or in a directory, if users write there and one of both is counted."""
        return next(
            (
                path
                for path, found in self._found.items()
                if found.is_written and (is_counted or found.is_counted) and is_nested(path, place)
            ),
            None,
        )

    def overlaps(self, homes: Iterable[str], counted: Set[str]) -> list[Fault]:
        """Return a fault for each folder around or in a home or another folder, if one of both is counted.

        What a session changes is counted for its own home or folder: the other one would be wrong. `homes` and
        `counted` include the folders. A folder in which nobody can write may be anywhere.
        """
        if not self._found:
            return []
        above = _homes_below(homes, counted)
        every = {*homes}
        faults = []
        for path, found in self._found.items():
            around = [each for each in _upwards(os.path.dirname(path)) if each in every]
            others = [*around, *([above[path]] if path in above else [])]
            other = next((each for each in others if path in counted or each in counted), None)
            if other is not None and found.is_written:
                faults.append(_overlap(found, path, other))
        return faults


def _homes_below(homes: Iterable[str], counted: Set[str]) -> dict[str, str]:
    """Return one of the homes below each directory that has any: a counted one, if there is one."""
    parents: dict[str, str] = {}  # many homes share a parent, which is looked at once
    for home in homes:
        parent = os.path.dirname(home)
        if parent not in parents or home in counted:
            parents[parent] = home
    above: dict[str, str] = {}
    for parent, home in parents.items():
        for each in _upwards(parent):
            if each not in above or home in counted:
                above[each] = home
    return above


def _overlap(found: _Found, path: str, other: str) -> Fault:
    document, key = found.place.document, (*found.place.key, *found.key)
    return Fault(str(document.path), document.line(key), dotted(key), *overlap_fault(path, other))


def overlap_fault(path: str, other: str) -> tuple[str, str]:
    """Return the problem, and the remedy, of two directories of which one lies in the other, and one is counted."""
    problem = f"{path} and {other} lie in each other, and have a quota: it would count wrong"
    return problem, "Choose separate directories, remove the quota, or make the folder read-only."


def is_nested(one: str, other: str) -> bool:
    """Return whether one of two directories lies in the other."""
    return one != other and (f"{other}/".startswith(f"{one}/") or f"{one}/".startswith(f"{other}/"))


def _upwards(directory: str) -> Sequence[str]:
    """Return a directory and all above it. What is above a whole store is empty, and is no directory."""
    if not directory:
        return ()
    parts = directory.rstrip("/").split("/")
    return ["/".join(parts[:length]) or "/" for length in range(len(parts), 0, -1)]
