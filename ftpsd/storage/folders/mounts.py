"""The mounts of one session, and the way from a path to its mount."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import Parts, Permissions
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import Files, Mount, User

log = Logger(namespace="ftpsd")

#: Opens the files of a mount.
Open = Callable[[Mount], Coroutine[Deferred[object], object, Files]]


class Mounted:
    """A mount, and its files once they are open. For the reactor thread, except for `files`."""

    def __init__(self, mount: Mount, open_files: Open) -> None:
        self.mount = mount
        self._open = open_files
        #: None until they are open: a folder may have to be counted first.
        self.files: Files | None = None
        #: The attempt to open them that runs. Its result is never a failure.
        self.opening: Deferred[None] | None = None
        self._failed_before = False
        self._closed = False

    def open(self) -> None:
        """Begin to open the files, unless they are open or being opened."""
        if self.files is None and self.opening is None:
            self.opening = Deferred()
            Deferred.fromCoroutine(self._open(self.mount)).addCallbacks(self._opened, self._failed)

    def _opened(self, files: Files) -> None:
        if self._closed:
            files.close()
        else:
            self.files = files
        self._end()

    def _failed(self, failure: Failure) -> None:
        if not self._failed_before:
            path, why = str(VirtualPath(self.mount.at)), failure.getErrorMessage()
            log.warn("the folder {path} cannot be used: {why}", path=path, why=why)
        self._failed_before = True
        self._end()
        failure.trap(OSError, Refusal)

    def _end(self) -> None:
        opening, self.opening = self.opening, None
        if opening is not None:
            opening.callback(None)

    def close(self) -> None:
        """The session has ended."""
        self._closed = True
        if self.files is not None:
            self.files.close()


class MountTable:
    """All mounts of one session; the first one is the home."""

    def __init__(self, mounts: Sequence[Mounted]) -> None:
        self.all = mounts
        self._home = mounts[0]
        self._by_path = {each.mount.at: each for each in mounts[1:]}
        self._names = names_by_directory(self._by_path)
        self._tops = self._names.get((), frozenset())

    def at(self, parts: Parts) -> Mounted:
        """Return the mount that has a path: the innermost one around it."""
        if parts and parts[0] in self._tops:
            for depth in range(len(parts), 0, -1):
                if (found := self._by_path.get(parts[:depth])) is not None:
                    return found
        return self._home

    def files(self, parts: Parts) -> Files:
        """Return the files that have a path. Raises Refusal (450) while they are not open. In any thread."""
        mounted = self.at(parts)
        if mounted.files is None:
            raise Refusal(450, f"{VirtualPath(mounted.mount.at)} is not available now: try again later.")
        return mounted.files

    def names_in(self, parts: Parts) -> frozenset[str]:
        """Return the names in a directory that are folders, or lead to some."""
        return self._names.get(parts, frozenset())

    def is_folder(self, parts: Parts) -> bool:
        """Return whether a path is that of a folder itself."""
        return parts in self._by_path

    def require_no_folder(self, path: VirtualPath, code: int = 550) -> None:
        """Raise Refusal for a folder itself and for a directory that leads to one: they are as configured."""
        if self.is_folder(path.parts):
            raise Refusal(code, f"{path} is a folder of the server: it cannot be renamed, removed or changed.")
        if path.parts and path.parts in self._names:
            raise Refusal(code, f"{path} contains a folder of the server: it cannot be renamed, removed or changed.")


def names_by_directory(paths: Collection[Parts]) -> dict[Parts, frozenset[str]]:
    """Return, by directory, the names that lead to some paths."""
    found: dict[Parts, frozenset[str]] = {}
    for path in paths:
        for depth, name in enumerate(path):
            found[path[:depth]] = found.get(path[:depth], frozenset()) | {name}
    return found


def mounts_of(user: User) -> list[Mount]:
    """Return the home and the folders of a user, each with the rules for permissions in it."""
    settings = user.settings
    folders, rules = settings.folders, settings.permission_rules
    below: dict[Parts, dict[Parts, frozenset[str]]] = {}
    for path, permissions in rules.paths.items():
        below.setdefault(_innermost(folders, path), {})[path] = permissions
    covered: dict[Parts, dict[Parts, frozenset[str]]] = {}
    for path in folders:
        names = covered.setdefault(_innermost(folders, path[:-1]), {})
        names[path[:-1]] = names.get(path[:-1], frozenset()) | {path[-1]}

    def permissions_at(at: Parts) -> Permissions:
        return Permissions(rules.at(at), {path: each for path, each in below.get(at, {}).items() if path != at})

    return [
        Mount(settings.home or "", permissions_at(()), settings.quota, (), covered.get((), {})),
        *(
            Mount(folder.path, permissions_at(at), folder.quota, at, covered.get(at, {}))
            for at, folder in folders.items()
        ),
    ]


def _innermost(folders: Mapping[Parts, object], path: Parts) -> Parts:
    """Return the path of the folder around a path, or () for the home."""
    return next((path[:depth] for depth in range(len(path), 0, -1) if path[:depth] in folders), ())
