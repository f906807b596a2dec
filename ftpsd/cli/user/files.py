"""The files of `users.d` for writing: UserDirectory. A change is made completely or not at all."""

from __future__ import annotations

import fcntl
import grp
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftpsd.cli.failure import CommandFailed
from ftpsd.config.settings import UsersSettings
from ftpsd.config.users.names import SUFFIX

#: Seconds to wait for another command that changes users.
_PATIENCE = 60

#: The start of the names of files that are being written. The daemon ignores names with a dot in front.
_TEMPORARY = ".new-"

#: Owner's group and mode where there is no users.yaml to take them from.
_GROUP, _MODE = "ftpsd", 0o640


class UserDirectory:
    """The directory of the users' files. Raises CommandFailed.

    New files get the mode of `users.yaml`, and its owner and group as far as this process may give files to them.
    """

    def __init__(self, settings: UsersSettings) -> None:
        self.path = settings.files
        self._owner, self._group, self._mode = _owner_and_mode(settings.file)
        self._descriptor = -1

    def file(self, name: str) -> Path:
        """Return the path of a user's file."""
        return self.path / f"{name}{SUFFIX}"

    def read(self, name: str) -> bytes | None:
        """Return the content of a user's file; None if there is none."""
        try:
            return self.file(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise failed(error, self.file(name)) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other command change users meanwhile. The directory is created if it is missing."""
        try:
            self._create()
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise failed(error, self.path) from None
        try:
            self._wait_for_lock()
            self._clean()
            yield
        finally:
            os.close(self._descriptor)

    def write(self, name: str, data: bytes) -> None:
        """Replace or create a user's file. It is complete on the disk before it has its name. Needs the lock."""
        temporary = f"{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            try:
                self._write(temporary, data)
                os.rename(temporary, f"{name}{SUFFIX}", src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
            except BaseException:
                _remove(temporary, self._descriptor)
                raise
            os.fsync(self._descriptor)
        except OSError as error:
            raise failed(error, self.file(name)) from None

    def remove(self, name: str) -> None:
        """Remove a user's file. Needs the lock."""
        try:
            os.unlink(f"{name}{SUFFIX}", dir_fd=self._descriptor)
            os.fsync(self._descriptor)
        except OSError as error:
            raise failed(error, self.file(name)) from None

    def _write(self, name: str, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=self._descriptor), "wb") as file:
            self._own(file.fileno(), self._mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _own(self, descriptor: int, mode: int) -> None:
        status = os.fstat(descriptor)
        if (status.st_uid, status.st_gid) != (self._owner, self._group):
            os.fchown(descriptor, self._owner, self._group)
        os.fchmod(descriptor, mode)

    def _create(self) -> None:
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            return
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._own(descriptor, 0o750)
        except BaseException:
            os.rmdir(self.path)
            raise
        finally:
            os.close(descriptor)

    def _wait_for_lock(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CommandFailed(f"another command has been changing {self.path} for a minute") from None
                time.sleep(0.05)
            except OSError as error:
                raise failed(error, self.path) from None
            else:
                return

    def _clean(self) -> None:
        """Remove what a command has left that was killed while it wrote: whoever has the lock is the only writer."""
        for name in os.listdir(self._descriptor):
            if name.startswith(_TEMPORARY):
                _remove(name, self._descriptor)


def _owner_and_mode(file: Path) -> tuple[int, int, int]:
    try:
        status = file.stat()
    except OSError:
        try:
            group = grp.getgrnam(_GROUP).gr_gid if os.geteuid() == 0 else os.getegid()
        except KeyError:
            group = os.getegid()
        return os.geteuid(), group, _MODE
    mode = stat.S_IMODE(status.st_mode) & 0o666
    if os.geteuid() == 0:
        return status.st_uid, status.st_gid, mode
    # Only root can give files away. In a container, users.yaml is root's, and the directory the daemon's.
    own = {os.getegid(), *os.getgroups()}
    return os.geteuid(), status.st_gid if status.st_gid in own else os.getegid(), mode


def _remove(name: str, directory: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except OSError:
        pass  # it has got its other name, or the disk cannot be written; the next command tries again


def failed(error: OSError, path: object) -> CommandFailed:
    """Return what an error of the system at a path means."""
    reason = (error.strerror or str(error)).lower()
    remedy = ". Run the command as root" if isinstance(error, PermissionError) and os.geteuid() else ""
    return CommandFailed(f"{path}: {reason}{remedy}")
