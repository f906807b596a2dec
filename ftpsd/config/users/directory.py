"""Read the files of `users.d` and `groups.d`: UserFiles. Each file NAME.yaml holds the keys of the user or group NAME.

Names that do not end in .yaml or that start with a dot are ignored: editors and package managers leave such files.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Literal

from attrs import frozen

from ftpsd.config.disk_watch import DiskWatch
from ftpsd.config.users.names import SUFFIX, problem
from ftpsd.config.yaml import Document, read

#: The suffix that is meant to be ours, and is not.
_MISTAKEN = ".yml"

#: The most bytes of one file. A user's keys take a few hundred.
_LARGEST = 1 << 20

#: Mode bits that are worth a fault or a warning: everyone may write or read, or the group may write.
_EXPOSING = stat.S_IWOTH | stat.S_IROTH | stat.S_IWGRP


@frozen
class ExposedFile:
    """A file of a user that others than its owner may change, or that everyone may read, or a link to a file."""

    path: Path
    mode: int
    group: int


class UserFiles:
    """The files of a directory, in the order of their names.

    `changes` has contents in place of files, by the name of the user; None stands for a file that is not there. With
    them a change is checked before it is made. `kind` is what a file stands for.
    """

    def __init__(
        self,
        directory: Path,
        watch: DiskWatch,
        changes: Mapping[str, bytes | None] | None = None,
        kind: Literal["user", "group"] = "user",
    ) -> None:
        self.directory = directory
        self.kind = kind
        self._watch = watch
        self._changes = dict(changes or {})
        self.exposed: list[ExposedFile] = []

    def documents(self) -> Iterator[tuple[str, Document]]:
        """Yield each user's name and document. One that cannot be read has a fault. A missing directory has no files.

        A directory that cannot be listed is a document with a fault.
        """
        try:
            entries = self._entries()
        except OSError as error:
            document = Document(self.directory)
            document.unreadable((), self.directory, error)
            yield "", document
            return
        for file_name, is_link in sorted(entries.items()):
            name = file_name.removesuffix(SUFFIX)
            path = self.directory / file_name
            wrong = _misnamed(path, name, self.kind)
            if wrong is not None:
                yield name, wrong
            elif name in self._changes:
                data = self._changes[name]
                if data is not None:
                    yield name, read(path, data)
            else:
                found = self._read(path, is_link)
                if found is not None:
                    yield name, found

    def check(self, file: Document, name: str, own: Document, section: Container[str]) -> None:
        """Add a fault to a file that is empty, and to one whose name the section of `users.yaml`, `own`, has, too."""
        if not file.faults and file.value is None:
            file.fault((), "the file is empty", f"Write the keys of the {self.kind}, or remove the file.")
        if name in section:
            other = f"{own.path}:{own.line((f'{self.kind}s', name))}"
            file.fault((), f"the {self.kind} {name} is in {other}, too", "Remove one of the two.")

    def _entries(self) -> dict[str, bool]:
        """Return the names of all files, each with whether it is a symbolic link."""
        self._watch.begin(Document(self.directory), (), self.directory)
        found = {f"{name}{SUFFIX}": False for name in self._changes}
        try:
            with os.scandir(self.directory) as entries:
                for entry in entries:
                    if entry.name.endswith((SUFFIX, _MISTAKEN)) and not entry.name.startswith("."):
                        found[entry.name] = entry.is_symlink()
        except FileNotFoundError:
            pass
        finally:
            self._watch.end()
        return found

    def _read(self, path: Path, is_link: bool) -> Document | None:
        document = Document(path)
        self._watch.begin(document, (), path)
        try:
            data, status = _content(path)
        except FileNotFoundError as error:
            if not is_link:  # it was removed after the directory had been listed
                return None
            document.unreadable((), path, error)
            return document
        except OSError as error:
            document.unreadable((), path, error)
            return document
        finally:
            self._watch.end()
        if is_link or status.st_mode & _EXPOSING:
            self.exposed.append(ExposedFile(path, status.st_mode, status.st_gid))
        return read(path, data)


def _misnamed(path: Path, name: str, kind: str) -> Document | None:
    """Return a document with the fault of a file's name; None if there is none."""
    document = Document(path)
    wrong = problem(name)
    if path.suffix == _MISTAKEN:
        document.unusable("is not read, since its name does not end in .yaml", f"Rename it to {path.stem}{SUFFIX}.")
    elif wrong is not None:
        document.unusable(f"the name of the {kind} {wrong}", "Rename the file.")
    return document if document.faults else None


def _content(path: Path) -> tuple[bytes, os.stat_result]:
    """Return the content of a regular file, and its status. Opening a named pipe would wait for its other end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if status.st_size > _LARGEST:
            raise OSError(errno.EFBIG, f"it has more than {_LARGEST} bytes")
        return os.read(descriptor, _LARGEST), status
    finally:
        os.close(descriptor)
