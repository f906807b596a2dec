"""From a VirtualPath to a place on the disk. There is no other way, and it cannot leave the root.

A path is walked component by component with directory descriptors (openat, O_NOFOLLOW), so a
directory that becomes a symbolic link between two steps is noticed and not followed. Links are
followed by reading them and walking on, as long as they stay below the root.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ftpsd.names import Names
from ftpsd.parts import is_private
from ftpsd.paths import VirtualPath
from ftpsd.replies import Refusal
from ftpsd.rights import Rights
from ftpsd.session import VERBS

#: So many links may be followed in one path, as in Linux.
_MOST_LINKS = 40

_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path ends: an open directory, the name in it, and the same as parts below the root."""

    directory: int
    name: str
    parts: tuple[str, ...]

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

    def __init__(self, home: str, rights: Rights, names: Names) -> None:
        self._home = home
        self._rights = rights
        self._names = names

    @contextmanager
    def place(self, path: VirtualPath, permission: str | None, follow: bool = True) -> Iterator[Place]:
        """The place of a path, with all links on the way resolved; with `follow`, a last one too.

        The permission must hold at the place, not only at the path that led there through links.
        """
        directory, name, parts = self._walk(path.parts, follow)
        try:
            if permission is not None:
                self.require(permission, parts)
            yield Place(directory, name, parts)
        finally:
            os.close(directory)

    @contextmanager
    def new_place(self, path: VirtualPath, permission: str | None, follow: bool = True) -> Iterator[Place]:
        """The same for a name that something is to get; a link does not lead to one that it may not get."""
        self.require_name(path.parts)
        with self.place(path, permission, follow) as place:
            self.require_name(place.parts)
            yield place

    def require_name(self, parts: tuple[str, ...]) -> None:
        """553 where a part of a path is a name that this user may not give."""
        if not self._names.allowed(parts):
            raise Refusal(553, f"{VirtualPath(parts)}: that name is not allowed here.")

    def require(self, permission: str, parts: tuple[str, ...]) -> None:
        if permission not in self._rights.at(parts):
            path = VirtualPath(parts)
            raise Refusal(550, f"{path}: this account has no permission to {VERBS[permission]}.")

    def require_any(self, place: Place, *permissions: str) -> None:
        """Raise Refusal unless one of the permissions holds at a place."""
        if self._rights.at(place.parts).isdisjoint(permissions):
            self.require(permissions[0], place.parts)

    def _walk(self, parts: tuple[str, ...], follow: bool) -> tuple[int, str, tuple[str, ...]]:
        if any(map(is_private, parts)):
            raise FileNotFoundError(errno.ENOENT, "private")
        todo, done, links = list(parts), list[str](), 0
        directory = self._open_home()
        try:
            while todo:
                part = todo[0]
                if part == "..":
                    todo = self._above(done) + todo[1:]
                    done, directory = [], self._reopen(directory)
                    continue
                if self._names.hidden is not None and self._names.hidden(part):
                    raise FileNotFoundError(errno.ENOENT, "hidden")
                last = len(todo) == 1
                target = self._link(directory, part) if not last or follow else None
                if target is not None:
                    links += 1
                    if links > _MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    inside = self._inside(target)
                    if inside is not None:
                        done, directory = [], self._reopen(directory)
                        target = inside
                    todo = [each for each in target.split("/") if each not in ("", ".")] + todo[1:]
                    continue
                if last:
                    return directory, part, (*done, part)
                deeper = os.open(part, _STEP, dir_fd=directory)
                os.close(directory)
                directory = deeper
                done.append(todo.pop(0))
            return directory, ".", tuple(done)
        except BaseException:
            os.close(directory)
            raise

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


def not_plain() -> Refusal:
    """The refusal for a directory, link, FIFO, socket or device where a file is needed."""
    return Refusal(550, "That is not a plain file.")


def _outside() -> Refusal:
    return Refusal(550, "That leads out of your directory.")
