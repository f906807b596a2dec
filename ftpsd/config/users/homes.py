"""Find the homes of users on the disk. Directories that many homes share are checked once."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from stat import S_ISDIR, S_ISLNK

from ftpsd.config.disk_watch import DiskWatch
from ftpsd.config.faults import Key, quoted, suggestion
from ftpsd.config.sections.storage import StorePlace, parse_place, place_in
from ftpsd.config.yaml import Document
from ftpsd.system import landlock

#: The most links in a path, as in Linux.
_MOST_LINKS = 40


class HomeFinder:
    """Checks homes. A disk call that does not return is reported by `watch`. `stores` are the names of all stores."""

    def __init__(self, watch: DiskWatch, stores: Collection[str] = ()) -> None:
        self._watch = watch
        self.stores = stores
        #: The directories above homes: their paths without symbolic links, and whether they can be opened.
        self._real: dict[str, str] = {}
        self._opened: dict[str, bool] = {}

    def find(self, document: Document, key: Key, home: str) -> str | None:
        """Return the path of a home without symbolic links; None if it is not a directory."""
        self._watch.begin(document, key, home)
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
            self._watch.end()

    def require(self, document: Document, key: Key, path: str, create: str = "Create it") -> str | None:
        """Return the path of a home or folder without symbolic links; None, with a fault, if it cannot be used.

        `create` begins the remedy for a directory that is missing. A place in a store has no directory.
        """
        if isinstance(path, StorePlace):
            return path if require_store(document, key, path, self.stores) else None
        found = self.find(document, key, path)
        if found is None:
            document.fault(key, f"{path} is not a directory", f"{create}: install -d {path}")
        elif self._is_denied(path):
            document.fault(key, f"{path} is outside of the sandbox", landlock.RESTART)
        else:
            return found
        return None

    def _is_denied(self, home: str) -> bool:
        """Return whether Landlock denies access to a home. It does not if the directory above can be opened."""
        above = home.rpartition("/")[0] or "/"
        opened = self._opened.get(above)
        if opened is None:
            opened = self._opened[above] = _can_open(above)
        return not opened and landlock.is_denied_home(home)


def require_store(document: Document, key: Key, place: StorePlace, stores: Collection[str]) -> bool:
    """Return whether there is the store of a place, and add a fault if there is none."""
    name = parse_place(place).store
    if name in stores:
        return True
    remedy = suggestion(name, stores) if stores else "Add it to the section storage in ftpsd.yaml."
    document.fault(key, f"there is no store {quoted(name)}", remedy)
    return False


def _resolve(home: str) -> str | None:
    return os.path.realpath(home) if os.path.isdir(home) else None


def _can_open(directory: str) -> bool:
    try:
        os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def absolute(path: str, base: Path) -> str:
    """Return the absolute path of a home or folder. `base` is the directory of `users.yaml`."""
    return path if path.startswith("/") else f"{base}/{path}"


def home_of(home: str, name: str, base: Path) -> str:
    """Return the place that a user's key `home` stands for. `base` is the directory of `users.yaml`."""
    if isinstance(home, StorePlace):
        found = parse_place(home)
        return place_in(found.store, found.prefix.replace("{user}", name))
    return absolute(home.replace("{user}", name), base)


def parents(base: Path, templates: Iterable[str], found: Iterable[str]) -> frozenset[str]:
    """Return the directories in which homes lie, those of users still to come included.

    These are what comes before {user} in the templates, relative to `base`, and the parent of each home that was
    found. A home is created, replaced or mounted beside others, and must be found there without a restart. Only a home
    directly below / has no such parent: it stands for itself.
    """
    planned = [os.path.join(base, template).partition("{user}")[0] + "{user}" for template in templates]
    homes = [*found, *map(os.path.realpath, planned)]
    return frozenset(os.path.dirname(home).rstrip("/") or home for home in homes)


def overlapping(home: str, others: Iterable[str]) -> str | None:
    """Return a directory that is the home, lies in it, or contains it; None if there is none."""
    around = {home, *map(str, Path(home).parents)}
    inside = f"{home.rstrip('/')}/"
    return next((each for each in others if each in around or each.startswith(inside)), None)


def trusted_path(path: str) -> str:
    """Return an absolute path without symbolic links, also if nothing is there.

    Raises PermissionError for a link of another user than root and the daemon's own: its owner could lead the daemon to
    any directory that it may use.
    """
    done, rest, links = "", path.split("/")[::-1], 0
    while rest:
        name = rest.pop()
        if name == "..":
            done = done.rpartition("/")[0]
        elif name not in ("", "."):
            here = f"{done}/{name}"
            owner = _owner_of_link(here)
            if owner is None or links >= _MOST_LINKS:
                done = here
                continue
            if owner not in (0, os.geteuid()):
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), here)
            target, links = os.readlink(here), links + 1
            done = "" if target.startswith("/") else done
            rest += target.split("/")[::-1]
    return done or "/"


def _owner_of_link(path: str) -> int | None:
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return None
    return status.st_uid if S_ISLNK(status.st_mode) else None
