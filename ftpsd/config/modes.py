"""Check who else may write to the files of the configuration, or read the private key and other secrets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from ftpsd.config.faults import ConfigurationWarning, Key
from ftpsd.config.settings import Settings
from ftpsd.config.tls import client_certificates
from ftpsd.config.users.directory import ExposedFile, UserFiles
from ftpsd.config.yaml import Document

#: The most bytes of a secret.
_LONGEST_SECRET = 4096


def check(document: Document, settings: Settings) -> None:
    """Add a fault for each file that everyone may change, and for a private key that everyone may read."""
    keys = _private_keys(settings)
    named: list[tuple[Key, Path]] = [
        ((), document.path),
        (("users", "file"), settings.users.file),
        *(((*key, "certificate"), pair.certificate) for key, pair in settings.tls.pairs),
        *keys,
        *client_certificates.files(settings),
    ]
    if settings.state.directory is not None:
        named.append((("state", "directory"), settings.state.directory))
    for where, path in dict.fromkeys(named):
        for writable in _writable(path):
            _fault(document, where, f"everyone on this machine may write to {writable}", f"chmod o-w {writable}")
    for key, private in keys:
        if mode_of(private) & stat.S_IROTH:
            _fault(
                document, key, f"everyone on this machine may read the private key {private}", f"chmod o-r {private}"
            )


def check_user_files(document: Document, files: UserFiles) -> None:
    """Add a fault if everyone may change files of users or groups, or replace them, or add some."""
    directory, exposed, key = files.directory, files.exposed, ("users", "directory")
    for writable in _writable(directory) if directory.exists() else ():
        _fault(document, key, f"everyone on this machine may write to {writable}", f"chmod o-w {writable}")
    found = [file for file in exposed if file.mode & stat.S_IWOTH]
    if found:
        problem = f"everyone on this machine may write to {_counted(found)}"
        _fault(document, key, problem, f"chmod o-w {directory}/*.yaml")
    for link in (file.path for file in exposed if file.path.is_symlink()):
        for writable in _writable(link):
            _fault(document, key, f"everyone on this machine may write to {writable}", f"chmod o-w {writable}")


def _counted(files: Sequence[ExposedFile]) -> str:
    """Return the name of the first file, and how many others there are."""
    return f"{files[0].path}" + (f" and {len(files) - 1} other files in its directory" if len(files) > 1 else "")


def _user_file_warnings(directory: Path, exposed: Sequence[ExposedFile], own: Set[int]) -> list[ConfigurationWarning]:
    key, found = ("users", "directory"), []
    readable = [file for file in exposed if file.mode & stat.S_IROTH]
    if readable:
        problem = f"everyone on this machine may read the password hashes in {_counted(readable)}"
        found.append(ConfigurationWarning(key, problem, f"chmod o-r {directory}/*.yaml"))
    shared = [file for file in exposed if file.mode & stat.S_IWGRP and file.group not in own]
    if shared:
        problem = f"a group other than root's and the daemon's may write to {_counted(shared)}"
        found.append(ConfigurationWarning(key, problem, f"chmod g-w {directory}/*.yaml"))
    if mode_of(directory) & stat.S_IWGRP and _group(directory) not in own:
        problem = f"a group other than root's and the daemon's may write to {directory}"
        found.append(ConfigurationWarning(key, problem, f"chmod g-w {directory}"))
    return found


def warnings(settings: Settings, exposed: Sequence[ExposedFile]) -> list[ConfigurationWarning]:
    """Return what others may read or change without being a fault. `exposed` are files of users."""
    users = settings.users.file
    found = []
    if mode_of(users) & stat.S_IROTH:
        problem = f"everyone on this machine may read the password hashes in {users}"
        found.append(ConfigurationWarning(("users", "file"), problem, f"chmod o-r {users}"))
    own = {0, os.getegid(), *os.getgroups()}
    for where, path in ((("users", "file"), users), *_private_keys(settings)):
        if mode_of(path) & stat.S_IWGRP and _group(path) not in own:
            problem = f"a group other than root's and the daemon's may write to {path}"
            found.append(ConfigurationWarning(where, problem, f"chmod g-w {path}"))
    return found + _user_file_warnings(settings.users.files, exposed, own)


def _private_keys(settings: Settings) -> list[tuple[Key, Path]]:
    """Return the files of the private keys, each with the key that names it."""
    return [((*key, pair.key_name), pair.key_file) for key, pair in settings.tls.pairs]


def _fault(document: Document, key: Key, problem: str, command: str) -> None:
    document.fault(key, problem, f"Run: {command} (or write file_permissions: ignore)")


def _writable(path: Path) -> Iterator[str]:
    """Yield the file if everyone may write to it, and each directory above in which everyone may replace it."""
    real = os.path.realpath(path)
    if mode_of(real) & stat.S_IWOTH:
        yield str(path)
    for directory in dict.fromkeys((*Path(os.path.abspath(path)).parents, *Path(real).parents)):
        mode = mode_of(directory)
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            yield str(directory)


def mode_of(path: str | os.PathLike[str]) -> int:
    """Return a file's mode; 0 if it does not exist, which is a fault of its own."""
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return 0


def _group(path: Path) -> int:
    try:
        return os.stat(path).st_gid
    except OSError:
        return 0


def read_secret(document: Document, key: Key, path: Path, check_modes: bool) -> str:
    """Return the secret in a file, without the line end. One that everyone may read is a fault."""
    try:
        with open(path, "rb") as file:
            mode, data = os.fstat(file.fileno()).st_mode, file.read(_LONGEST_SECRET + 1)
        secret = data.decode().removesuffix("\n")
    except OSError as error:
        document.unreadable(key, path, error)
        return ""
    except UnicodeDecodeError:
        document.fault(key, f"{path} is not UTF-8", "Write the secret as text, in one line.")
        return ""
    if not secret or len(data) > _LONGEST_SECRET or "\n" in secret or "\0" in secret:
        document.fault(key, f"{path} does not hold one line with a secret", "Write the secret in one line.")
    elif check_modes and mode & (stat.S_IROTH | stat.S_IWOTH):
        document.fault(key, f"everyone on this machine may read {path}", f"chmod o-rwx {path}")
    return secret
