"""The only way from a VirtualPath to the disk. It cannot leave the root.

A path is walked name by name with descriptors of directories (openat, O_NOFOLLOW), so a directory that becomes a
symbolic link between two steps is not followed. Links are read and their targets walked, as long as they stay below the
root.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVarTuple

from ftpsd.protocol.name_rules import NameRules, folded
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import PERMITTED_ACTIONS, Parts
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import Mount
from ftpsd.storage.local.part_files import is_private
from ftpsd.system.file_systems import may_have_short_names

Arguments = TypeVarTuple("Arguments")

#: The most links that are followed in one path, as in Linux.
_MOST_LINKS = 40

#: The form of the second, short name that FAT and NTFS give to a file with a long name.
_SHORT_NAME = re.compile(r"(?=[^.]{1,8}(\.|\Z))[^.~]*~[0-9]+(\.[^.]{0,3})?\Z")

_ROOT = "The root directory cannot be changed."

_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Place:
    """The end of a path: an open directory, and a name in it. The end of a `with` statement closes the directory.

    `parts` are the names that lead there in the user's tree, as the rules for permissions spell them. `others` are
    further paths that may mean this place: through a link, or because the disk may ignore case. What they forbid is
    forbidden. `way` are the names as the configuration spells those that lead to folders. `found` is the status of what
    was there when the path was resolved, if links were followed and there was something.
    """

    directory: int
    name: str
    parts: Parts
    others: tuple[Parts, ...] = ()
    way: Parts = ()
    found: os.stat_result | None = None

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.directory)

    def checked(self, check: Callable[[*Arguments], None], *arguments: *Arguments) -> Place:
        """Return this place, or close its directory if a check of it raises."""
        try:
            check(*arguments)
        except BaseException:
            os.close(self.directory)
            raise
        return self

    def stat(self) -> os.stat_result:
        """Return the status of what is there; that of a symbolic link is its own."""
        return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)

    def first_stat(self) -> os.stat_result:
        """Return `found`, or what `stat` does if there is none. It saves a system call where nothing was changed."""
        return self.found or self.stat()

    def is_at(self, other: Place) -> bool:
        """Return whether this is the same name in the same directory."""
        return self.name == other.name and os.path.sameopenfile(self.directory, other.directory)

    def pin(self) -> int:
        """Return an O_PATH descriptor of what is there; a symbolic link is itself."""
        return os.open(self.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory)

    def open_directory(self) -> int:
        """Open the directory that is there, for reading."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self.name, flags, dir_fd=self.directory)

    def open_file(self) -> tuple[int, int] | None:
        """Open the plain file that is there, for reading. Return its descriptor and size, or None for a link.

        Raises Refusal for anything else.
        """
        pinned = self.pin()
        try:
            # Opening has effects: it wakes the writer of a FIFO, rewinds a tape, starts a watchdog. So look first, and
            # open exactly what was looked at.
            found = os.fstat(pinned)
            if stat.S_ISLNK(found.st_mode):
                return None
            if not stat.S_ISREG(found.st_mode):
                raise not_plain()
            return os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_CLOEXEC), found.st_size
        finally:
            os.close(pinned)


class Jail:
    """The tree below one root, and the permissions of one user in it. Everything blocks.

    The root is a home, or a folder: then all paths begin with those names by which the user sees it (`at`).
    """

    def __init__(self, mount: Mount, name_rules: NameRules) -> None:
        self._home = mount.place
        self.at = mount.at
        #: The names of folders in directories, by directory and folded name.
        self.covered = {parts: _by_folded_name(names) for parts, names in mount.covered.items()}
        #: The names in directories that lead to these directories.
        self._ways = _names_by_directory(self.covered)
        self.permission_rules = mount.permissions
        self.name_rules = name_rules

    def below(self, parts: Parts) -> Parts:
        """Return the names of a path that follow those of the root."""
        return parts[len(self.at) :]

    def place(self, path: VirtualPath, permission: str | None, follow: bool = True) -> Place:
        """Return the place of a path, for a `with` statement. Links are resolved, that of the last name only with
        `follow`.

        Raises Refusal unless the permission holds at the place, also if it holds at the path that led there by links.
        """
        place = self._walk(path.parts, follow)
        return place if permission is None else place.checked(self.require, permission, place)

    def new_place(self, path: VirtualPath, permission: str | None, follow: bool = True) -> Place:
        """Resolve a name that is to be created. Raises Refusal if the user may not create it, also by a link."""
        self.require_name(path.parts)
        place = self.place(path, permission, follow)
        return place.checked(self.require_name, place.parts)

    def require_name(self, parts: tuple[str, ...]) -> None:
        """Raise Refusal (553) if the user may not give one of the names in a path."""
        if not self.name_rules.allowed(self.below(parts)):
            raise Refusal(553, f"{VirtualPath(parts)}: name not allowed.")

    def permissions(self, place: Place) -> frozenset[str]:
        """Return the permissions that hold at a place."""
        found = self.permission_rules.at(place.parts)
        for other in place.others:
            found &= self.permission_rules.strictly(other)
        return found

    def throughout(self, place: Place, permission: str) -> bool:
        """Return whether a permission holds at a place and everywhere below it."""
        return self.permission_rules.throughout(place.parts, permission) and all(
            self.permission_rules.throughout(other, permission, strictly=True) for other in place.others
        )

    def require(self, permission: str, place: Place) -> None:
        """Raise Refusal unless the permission holds at a place."""
        if permission not in self.permissions(place):
            path = VirtualPath(place.parts)
            raise Refusal(550, f"{path}: no permission to {PERMITTED_ACTIONS[permission]}.")

    def require_any(self, place: Place, *permissions: str) -> None:
        """Raise Refusal unless one of the permissions holds at a place."""
        if self.permissions(place).isdisjoint(permissions):
            self.require(permissions[0], place)

    def _walk(self, parts: Parts, follow: bool) -> Place:
        """Return the place of a path, and leave its directory open. The rules for the next name of the path:

        1. `..`, which only the target of a link can have, starts at the root again, with one name less.
        2. A name that no listing shows does not exist; nor does one that a folder hides.
        3. A link is replaced by the names of its target; the last name of the path is one only with `follow`. An
           absolute target must lie below the root, and starts there. At most 40 links are followed.
        4. The last name is the place. Any other one is a directory, which is opened.

        Where the rules for permissions mean several paths, the permissions of all of them hold (`others`): for the
        first link its own path, and for a name that several rules may mean, the first of them.
        """
        at = list(self.at)
        todo, done, way, links = list(parts[len(at) :]), at, at, 0
        others: list[Parts] = []
        found: os.stat_result | None = None
        directory = self._open_home()
        try:
            while todo:
                name = todo.pop(0)
                if name == "..":
                    todo, done, way = _parent(done, len(at)) + todo, at, at
                    self._reopen(directory)
                    continue
                self._require_shown(directory, way, name)
                ruled, ambiguous = name, False
                if self.permission_rules.paths:
                    ruled, ambiguous = self._as_ruled(directory, tuple(done), name)
                led = _as_led(self._ways.get(tuple(way)), directory, name) if self._ways else name
                if todo:
                    target: int | str | None = _enter(directory, name)
                else:
                    found = _stat(directory, name) if follow else None
                    is_link = found is not None and stat.S_ISLNK(found.st_mode)
                    target = _link_target(directory, name) if is_link else None
                if not isinstance(target, str):
                    if ambiguous:
                        others.append((*done, ruled, *todo))
                    done, way = [*done, ruled], [*way, led]
                    if target is None:
                        return Place(directory, name, tuple(done), tuple(others), tuple(way), found)
                    os.close(directory)
                    directory = target
                    continue
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if links == 1 and self.permission_rules.paths:
                    others.append((*done, ruled, *todo))
                inside = self._below_home(target)
                if inside is not None:
                    done, way, target = at, at, inside
                    self._reopen(directory)
                todo = [each for each in target.split("/") if each not in ("", ".")] + todo
            return Place(directory, ".", tuple(done), tuple(others), tuple(way))
        except BaseException:
            os.close(directory)
            raise

    def _require_shown(self, directory: int, parts: Sequence[str], name: str) -> None:
        """Raise FileNotFoundError for a name that no listing shows."""
        hidden = self.name_rules.hidden
        if is_private(name) or (hidden is not None and hidden(name)) or ("~" in name and _is_alias(directory, name)):
            raise FileNotFoundError(errno.ENOENT, "not shown")
        if self.covered and is_covered(self.covered.get(tuple(parts), {}), directory, name):
            raise FileNotFoundError(errno.ENOENT, "not shown")

    def _as_ruled(self, directory: int, parts: Parts, name: str) -> tuple[str, bool]:
        """Return how the rules spell a name of a directory, and whether other rules may mean it as well.

        Only the disk knows which names it takes for the same, so the files are compared.
        """
        others = self.permission_rules.branches(parts)
        if name in others:
            others = frozenset(each for each in others if each != name and folded(each) == folded(name))
        if not others:
            return name, False
        found = _stat(directory, name)
        if found is None:  # a new name: the disk cannot be asked yet
            return name, any(folded(each) == folded(name) and not _stat(directory, each) for each in others)
        same = [each for each in sorted(others) if (one := _stat(directory, each)) and os.path.samestat(found, one)]
        if name in self.permission_rules.branches(parts) or not same:
            return name, bool(same)
        return same[0], len(same) > 1

    def _open_home(self) -> int:
        """Open the home. Raises FileNotFoundError if a link leads there: its path had none when it was configured.

        A system user may own the directory around the home, and replace the home by a link to anything.
        """
        directory = os.open(self._home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if os.readlink(f"/proc/self/fd/{directory}") != self._home:
                raise FileNotFoundError(errno.ENOENT, "a link leads to the home")
        except BaseException:
            os.close(directory)
            raise
        return directory

    def _reopen(self, directory: int) -> None:
        """Let a descriptor be that of the home again."""
        os.dup2(fresh := self._open_home(), directory, inheritable=False)
        os.close(fresh)

    def _below_home(self, target: str) -> str | None:
        """Return an absolute target of a link as a path below the home, or None for a relative one."""
        if not target.startswith("/"):
            return None
        if target != self._home and not target.startswith(self._home.rstrip("/") + "/"):
            raise _outside()
        return target[len(self._home) :]


def _enter(directory: int, name: str) -> int | str:
    """Open a directory in an open directory, or return the target if the name is a link.

    Most names are directories. To look for a link first would raise and catch an exception for each of them.
    """
    try:
        return os.open(name, _STEP, dir_fd=directory)
    except NotADirectoryError:  # with O_NOFOLLOW, a link is none
        target = _link_target(directory, name)
        if target is None:
            raise
        return target


def _link_target(directory: int, name: str) -> str | None:
    """Return the target of a link, or None if a name is no link."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        # EINVAL: it exists, and is no link. The next step raises ENOENT again.
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _parent(names: list[str], above: int) -> list[str]:
    """Return the names below the root that lead to the parent of a directory; `above` names lead to the root."""
    if len(names) == above:
        raise _outside()
    return names[above:-1]


def _by_folded_name(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(folded(name), []).append(name)
    return found


def _names_by_directory(paths: Iterable[Parts]) -> dict[Parts, frozenset[str]]:
    """Return, by directory, the names that lead to some paths."""
    found: dict[Parts, frozenset[str]] = {}
    for path in paths:
        for depth, name in enumerate(path):
            found[path[:depth]] = found.get(path[:depth], frozenset()) | {name}
    return found


def _as_led(others: frozenset[str] | None, directory: int, name: str) -> str:
    """Return how the configuration spells a name of a directory if it is one of `others`, which lead to folders."""
    if not others or name in others or (found := _stat(directory, name)) is None:
        return name
    same = (each for each in sorted(others) if (one := _stat(directory, each)) and os.path.samestat(found, one))
    return next(same, name)


def require_no_folder(jail: Jail, place: Place) -> None:
    """Raise Refusal (550) for what leads to a folder: by a link, or by another spelling on a disk that ignores case."""
    if any(parts[: len(place.way)] == place.way for parts in jail.covered):
        raise Refusal(550, f"{VirtualPath(place.way)} contains a folder of the server: it cannot be changed.")


def is_covered(folders: Mapping[str, Sequence[str]], directory: int, name: str) -> bool:
    """Return whether one of the folders in a directory hides a name, also on a disk that ignores case."""
    same = folders.get(folded(name), ())
    if name in same:
        return True
    found = _stat(directory, name) if same else None
    return found is not None and any(
        (one := _stat(directory, each)) is not None and os.path.samestat(found, one) for each in same
    )


def require_below_root(jail: Jail, parts: Parts) -> None:
    """Raise Refusal (550) for the root itself."""
    if not jail.below(parts):
        text = f"{VirtualPath(parts)} is a folder of the server: it cannot be changed." if jail.at else _ROOT
        raise Refusal(550, text)


def _stat(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_alias(directory: int, name: str) -> bool:
    """Return whether a name is the short name of a file that its directory lists under a long name (FAT, NTFS).

    The patterns of name rules would not match it. To read a large directory takes long, and clients may make names of
    this form on any disk: so it is read only where there may be short names.
    """
    if not _SHORT_NAME.match(name) or not may_have_short_names(directory) or not _stat(directory, name):
        return False
    try:
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError:
        return False  # it cannot be listed
    try:
        names, wanted = os.listdir(descriptor), folded(name)
        return name not in names and all(folded(each) != wanted for each in names)
    finally:
        os.close(descriptor)


def not_plain() -> Refusal:
    """Return the refusal of a directory, link, FIFO, socket or device where a file is needed."""
    return Refusal(550, "Not a plain file.")


def _outside() -> Refusal:
    return Refusal(550, "Path leads out of your home directory.")
