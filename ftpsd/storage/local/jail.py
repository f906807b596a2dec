"""From a VirtualPath to a place on the disk. There is no other way, and it cannot leave the root.

A path is walked component by component with directory descriptors (openat, O_NOFOLLOW), so a
directory that becomes a symbolic link between two steps is noticed and not followed. Links are
followed by reading them and walking on, as long as they stay below the root.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ftpsd.protocol.name_rules import NameRules, folded
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import Parts, Permissions
from ftpsd.protocol.replies import Refusal
from ftpsd.protocol.session import VERBS
from ftpsd.storage.local.part_files import is_private

#: So many links may be followed in one path, as in Linux.
_MOST_LINKS = 40

#: What FAT and NTFS call a file with a longer name, beside that name.
_SHORT_NAME = re.compile(r"(?=[^.]{1,8}(\.|\Z))[^.~]*~[0-9]+(\.[^.]{0,3})?\Z")

_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path ends: an open directory, the name in it, and the same as parts below the root.

    The parts are spelled as the rules spell them. `others` are further paths that may mean this place: by way of a
    link, or as the disk may take a name that nothing has yet. What they forbid is forbidden.
    """

    directory: int
    name: str
    parts: Parts
    others: tuple[Parts, ...] = ()

    def stat(self) -> os.stat_result:
        """What is there; a symbolic link is itself."""
        return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)

    def is_at(self, other: Place) -> bool:
        """Whether it is the same name of the same directory."""
        return self.name == other.name and os.path.sameopenfile(self.directory, other.directory)

    def pin(self) -> int:
        """Return an O_PATH descriptor of what is there; a symbolic link is itself."""
        return os.open(self.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory)

    def open_directory(self) -> int:
        """Open the directory that is there, for reading."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self.name, flags, dir_fd=self.directory)

    def open_file(self) -> int:
        """Open the plain file that is there, for reading. Raises Refusal for anything else."""
        pinned = self.pin()
        try:
            # To open is to act: a FIFO wakes its writer, a tape rewinds, a watchdog starts. So look first, and open
            # exactly what was looked at.
            if not stat.S_ISREG(os.fstat(pinned).st_mode):
                raise not_plain()
            return os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(pinned)


class Jail:
    """The tree below one root, and what one user may do in it. Everything blocks."""

    def __init__(self, home: str, permissions: Permissions, name_rules: NameRules) -> None:
        self._home = home
        self._permissions = permissions
        self._name_rules = name_rules

    @contextmanager
    def place(self, path: VirtualPath, permission: str | None, follow: bool = True) -> Iterator[Place]:
        """The place of a path, with all links on the way resolved; with `follow`, a last one too.

        The permission must hold at the place, not only at the path that led there through links.
        """
        place = self._walk(path.parts, follow)
        try:
            if permission is not None:
                self.require(permission, place)
            yield place
        finally:
            os.close(place.directory)

    @contextmanager
    def new_place(self, path: VirtualPath, permission: str | None, follow: bool = True) -> Iterator[Place]:
        """The same for a name that something is to get; a link does not lead to one that it may not get."""
        self.require_name(path.parts)
        with self.place(path, permission, follow) as place:
            self.require_name(place.parts)
            yield place

    def require_name(self, parts: tuple[str, ...]) -> None:
        """553 where a part of a path is a name that this user may not give."""
        if not self._name_rules.allowed(parts):
            raise Refusal(553, f"{VirtualPath(parts)}: that name is not allowed here.")

    def permissions(self, place: Place) -> frozenset[str]:
        """Return the permissions that hold at a place."""
        found = self._permissions.at(place.parts)
        for other in place.others:
            found &= self._permissions.strictly(other)
        return found

    def throughout(self, place: Place, permission: str) -> bool:
        """Whether a permission holds at a place and everywhere below it."""
        return self._permissions.throughout(place.parts, permission) and all(
            self._permissions.throughout(other, permission, strictly=True) for other in place.others
        )

    def require(self, permission: str, place: Place) -> None:
        """Raise Refusal unless the permission holds at a place."""
        if permission not in self.permissions(place):
            path = VirtualPath(place.parts)
            raise Refusal(550, f"{path}: this account has no permission to {VERBS[permission]}.")

    def require_any(self, place: Place, *permissions: str) -> None:
        """Raise Refusal unless one of the permissions holds at a place."""
        if self.permissions(place).isdisjoint(permissions):
            self.require(permissions[0], place)

    def _walk(self, parts: Parts, follow: bool) -> Place:
        todo, done, links = list(parts), list[str](), 0
        others: list[Parts] = []
        directory = self._open_home()
        try:
            while todo:
                part = todo[0]
                if part == "..":
                    todo = self._above(done) + todo[1:]
                    done, directory = [], self._reopen(directory)
                    continue
                self._require_shown(directory, part)
                ruled, doubtful = part, False
                if self._permissions.paths:
                    ruled, doubtful = self._as_ruled(directory, tuple(done), part)
                last = len(todo) == 1
                target = self._link(directory, part) if not last or follow else None
                if target is not None:
                    links += 1
                    if links == 1 and self._permissions.paths:
                        others.append((*done, ruled, *todo[1:]))  # the rules for the way hold, too
                    if links > _MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    inside = self._inside(target)
                    if inside is not None:
                        done, directory = [], self._reopen(directory)
                        target = inside
                    todo = [each for each in target.split("/") if each not in ("", ".")] + todo[1:]
                    continue
                if doubtful:
                    others.append((*done, ruled, *todo[1:]))
                if last:
                    return Place(directory, part, (*done, ruled), tuple(others))
                deeper = os.open(part, _STEP, dir_fd=directory)
                os.close(directory)
                directory = deeper
                todo.pop(0)
                done.append(ruled)
            return Place(directory, ".", tuple(done), tuple(others))
        except BaseException:
            os.close(directory)
            raise

    def _require_shown(self, directory: int, name: str) -> None:
        """Raise FileNotFoundError for a name that no listing shows."""
        hidden = self._name_rules.hidden
        if is_private(name) or (hidden is not None and hidden(name)) or ("~" in name and _is_alias(directory, name)):
            raise FileNotFoundError(errno.ENOENT, "not shown")

    def _as_ruled(self, directory: int, parts: Parts, name: str) -> tuple[str, bool]:
        """Return how the rules spell a name of a directory, and whether other rules may mean it as well.

        Only the disk knows which names it takes for the same, so it is asked which file each of them is.
        """
        others = self._permissions.branches(parts)
        if name in others:
            others = frozenset(each for each in others if each != name and folded(each) == folded(name))
        if not others:
            return name, False
        found = _stat(directory, name)
        if found is None:  # a new name: what the disk will take for the same cannot be asked yet
            return name, any(folded(each) == folded(name) and not _stat(directory, each) for each in others)
        same = [each for each in sorted(others) if (one := _stat(directory, each)) and os.path.samestat(found, one)]
        if name in self._permissions.branches(parts) or not same:
            return name, bool(same)
        return same[0], len(same) > 1

    def _open_home(self) -> int:
        return os.open(self._home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _reopen(self, directory: int) -> int:
        os.dup2(fresh := self._open_home(), directory, inheritable=False)
        os.close(fresh)
        return directory

    @staticmethod
    def _link(directory: int, name: str) -> str | None:
        try:
            return os.readlink(name, dir_fd=directory)
        except OSError as error:
            # EINVAL: there, and no link. ENOENT, ENOTDIR and others come up again at the next step.
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise

    @staticmethod
    def _above(done: list[str]) -> list[str]:
        if not done:
            raise _outside()
        return done[:-1]

    def _inside(self, target: str) -> str | None:
        """An absolute target as one relative to the root; None for a target that is relative already."""
        if not target.startswith("/"):
            return None
        if target != self._home and not target.startswith(self._home.rstrip("/") + "/"):
            raise _outside()
        return target[len(self._home) :]


def _stat(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_alias(directory: int, name: str) -> bool:
    """Whether a name leads to a file that the directory lists under another name only: FAT and NTFS have short names
    for long ones. Patterns for names would not hold for it."""
    if not _SHORT_NAME.match(name) or not _stat(directory, name):
        return False
    try:
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError:
        return False  # it lists nothing
    try:
        return all(folded(each) != folded(name) for each in os.listdir(descriptor))
    finally:
        os.close(descriptor)


def not_plain() -> Refusal:
    """The refusal for a directory, link, FIFO, socket or device where a file is needed."""
    return Refusal(550, "That is not a plain file.")


def _outside() -> Refusal:
    return Refusal(550, "That leads out of your directory.")
