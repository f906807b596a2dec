"""Who else may write to the files of the configuration, or read the private key."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ftpsd.config.settings import Settings
from ftpsd.config.yaml import Document, Key


def check(document: Document, settings: Settings) -> None:
    """Note what anybody on the machine may change, and a private key that anybody may read."""
    tls = settings.tls
    key = ("tls", "private_key" if tls.private_key else "certificate")
    private = tls.private_key or tls.certificate
    named: list[tuple[Key, Path]] = [
        ((), document.path),
        (("users", "file"), settings.users.file),
        (("tls", "certificate"), tls.certificate),
        (key, private),
    ]
    if settings.state.directory is not None:
        named.append((("state", "directory"), settings.state.directory))
    for where, path in dict.fromkeys(named):
        for open_to_all in _writable(path):
            _fault(document, where, f"anybody on this machine may write to {open_to_all}", f"chmod o-w {open_to_all}")
    if _mode(private) & stat.S_IROTH:
        _fault(document, key, f"anybody on this machine may read the private key {private}", f"chmod o-r {private}")


def warnings(settings: Settings) -> list[str]:
    """What others may read or change that is no fault."""
    users = settings.users.file
    found = []
    if _mode(users) & stat.S_IROTH:
        found.append(f"anybody on this machine may read the hashes in {users}: chmod o-r {users}")
    own = {0, os.getegid(), *os.getgroups()}
    for path in (users, settings.tls.private_key or settings.tls.certificate):
        if _mode(path) & stat.S_IWGRP and _group(path) not in own:
            found.append(f"a group that is neither root's nor the daemon's may write to {path}: chmod g-w {path}")
    return found


def _fault(document: Document, key: Key, problem: str, command: str) -> None:
    document.fault(key, problem, f"Run: {command} (or write file_permissions: ignore)")


def _writable(path: Path) -> Iterator[str]:
    """The file, and the directories above it in which anybody may put another one in its place."""
    real = os.path.realpath(path)
    if _mode(real) & stat.S_IWOTH:
        yield str(path)
    for directory in dict.fromkeys((*Path(os.path.abspath(path)).parents, *Path(real).parents)):
        mode = _mode(directory)
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            yield str(directory)


def _mode(path: str | os.PathLike[str]) -> int:
    """Return a file's mode; 0 if it is not there, which others tell."""
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return 0


def _group(path: Path) -> int:
    try:
        return os.stat(path).st_gid
    except OSError:
        return 0
