"""Make and delete the homes of users, for the user of the service, and never through a symbolic link.

The directories above a home may belong to the user of the service. If an attacker has taken over the daemon, a link
there must not make root give away or delete other directories. So each directory of the path is opened in the one
before it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ftpsd.cli.failure import CommandFailed
from ftpsd.cli.user.files import failed

#: The system user of ftpsd.service.
_SERVICE = "ftpsd"

_MODE, _MODE_ABOVE = 0o750, 0o755

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: To pass through a directory, which needs no permission to list it.
_PASS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make(path: str) -> list[str]:
    """Make a home and the directories above it; return those that were made, the outermost first."""
    made: list[str] = []
    try:
        with _walk(os.path.dirname(path), made) as above:
            _make_last(path, above, made)
    except BaseException:
        unmake(made)
        raise
    return made


def _make_last(path: str, above: int, made: list[str]) -> None:
    name = os.path.basename(path)
    try:
        os.mkdir(name, 0o700, dir_fd=above)
        made.append(path)
    except FileExistsError:
        pass
    except OSError as error:
        raise failed(error, path) from None
    descriptor = _open(name, above, path)
    try:
        if made[-1:] == [path]:
            owner = _service_user()
            if owner is not None:
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, _MODE)
    except OSError as error:
        raise failed(error, path) from None
    finally:
        os.close(descriptor)


def unmake(made: Iterable[str]) -> None:
    """Remove directories that were made, if they are empty."""
    for path in reversed(list(made)):
        try:
            with _walk(os.path.dirname(path)) as above:
                os.rmdir(os.path.basename(path), dir_fd=above)
        except (OSError, CommandFailed):
            return


def delete(path: str) -> None:
    """Delete a home with all files in it. Nothing outside of it is deleted, whatever links and renames do."""
    try:
        with _walk(os.path.dirname(path)) as above:
            os.close(_open(os.path.basename(path), above, path))
            shutil.rmtree(os.path.basename(path), dir_fd=above)
    except OSError as error:
        raise failed(error, error.filename or path) from None


def foreign_owner(path: str) -> str | None:
    """Return the owner of a home that does not belong to the user of the service; None if it does."""
    service = _service_user()
    owner = os.stat(path).st_uid
    if service is None or owner == service[0]:
        return None
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return str(owner)


def _service_user() -> tuple[int, int] | None:
    """Return user and group of the service; None if there is none here, or we cannot give files to others."""
    if os.geteuid() != 0:
        return None
    try:
        found = pwd.getpwnam(_SERVICE)
    except KeyError:
        return None
    return found.pw_uid, found.pw_gid


@contextmanager
def _walk(path: str, made: list[str] | None = None) -> Iterator[int]:
    """Open a directory, one step after the other. Missing ones are made if a list is given, to which they are added."""
    descriptor = os.open("/", _PASS)
    try:
        for position, name in enumerate(names := Path(path).parts[1:], 1):
            here = "/" + "/".join(names[:position])
            if made is not None:
                try:
                    os.mkdir(name, _MODE_ABOVE, dir_fd=descriptor)
                    made.append(here)
                except FileExistsError:
                    pass
                except OSError as error:
                    raise failed(error, here) from None
            below = _open(name, descriptor, here, _PASS)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def _open(name: str, above: int, path: str, flags: int = _OPEN) -> int:
    """Open one directory in another one."""
    try:
        return os.open(name, flags, dir_fd=above)
    except OSError as error:
        try:
            is_link = stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
        except OSError:
            is_link = False
        if is_link:
            target = os.path.realpath(path)
            raise CommandFailed(f"{path} is a symbolic link: name the directory itself ({target})") from None
        raise failed(error, path) from None
