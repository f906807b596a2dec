"""What commands require of the parts of the daemon that do input and output, as typing Protocols.

The parts implement them without importing commands or sessions, and mypy checks each implementation where it is made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from ftpsd.protocol.listing import Entry
from ftpsd.protocol.parsing import ListRequest
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Reply

T = TypeVar("T")

#: Which way the bytes of a file go, as the client sees it.
Direction = Literal["upload", "download"]

#: Opens the source of a download or the target of an upload. It blocks: a command passes it from `Files` to `Data`,
#: which calls it in a worker thread.
Opening = Callable[[], T]

#: Is called with what was opened, in the reactor thread.
Opened = Callable[[T], None]


class Source(Protocol):
    """The bytes of a download or listing. The methods block."""

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes in pieces, of which some may be empty. A piece is valid until the next one is taken."""

    def close(self) -> None:
        """Free what is open. May be called any number of times."""


class Reader(Source, Protocol):
    """Part of a file."""

    @property
    def offset(self) -> int:
        """The position in the file of the byte that is read next."""

    @property
    def size(self) -> int:
        """The size of the file when it was opened, in bytes."""


class Upload(Protocol):
    """A file that is being received. Nobody sees it until it is published. The methods block."""

    @property
    def name(self) -> str:
        """The name that the file gets, without its directory."""

    def must_copy(self, complete: bool) -> bool:
        """Return whether `copy` is to be called now.

        The caller asks before it writes anything, and again when all bytes have been received (`complete`).
        """

    def copy(self, at_most: int) -> int:
        """Copy a step of the old file, with which the upload starts. Return the number of bytes written."""

    def write(self, data: bytes | memoryview) -> None:
        """Write the next bytes."""

    def publish(self) -> None:
        """Give the complete upload its name, in place of an older file."""

    def close(self) -> None:
        """End the upload. One that was not published may be kept for resuming. May be called any number of times."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer is: the bytes that it has moved, and their total if that is known."""

    direction: Direction
    bytes: int
    expected_size: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a home holds, and its limits (None: no limit)."""

    bytes: int
    files: int
    max_bytes: int | None
    max_files: int | None


class Files(Protocol):
    """The files of one user. No path leads out of the home, and the user's permissions hold at each place.

    Each method is called in the reactor thread and does not block. The awaitables raise Refusal or OSError.
    `listing`, `reader` and `writer` return an `Opening`, which raises these too.
    """

    def listing(self, path: VirtualPath, request: ListRequest, line: Callable[[Entry], str]) -> Opening[Source]:
        """Return the opening of a listing; `line` formats an entry. The lines are made while they are sent."""

    def reader(self, path: VirtualPath, offset: int, end: int | None) -> Opening[Reader]:
        """Return the opening of a file for reading, from `offset` to before `end` (None: the end of the file)."""

    def writer(self, path: VirtualPath, offset: int = 0, append: bool = False, unique: bool = False) -> Opening[Upload]:
        """Return the opening of an upload: one that resumes at `offset`, appends, or gets a unique name."""

    def entry(self, path: VirtualPath, *permissions: str) -> Awaitable[Entry]:
        """Return the facts of a name at which one of the permissions holds."""

    def require_directory(self, path: VirtualPath) -> Awaitable[None]:
        """Return if the path is a directory in which the user has any permission."""

    def first_entries(self, path: VirtualPath, request: ListRequest, limit: int) -> Awaitable[list[Entry]]:
        """Return the first entries of a listing, `limit` at most."""

    def make_directory(self, path: VirtualPath) -> Awaitable[None]:
        """Make an empty directory."""

    def remove_directory(self, path: VirtualPath) -> Awaitable[None]:
        """Remove an empty directory."""

    def remove_tree(self, path: VirtualPath) -> Awaitable[None]:
        """Remove a directory and all below it."""

    def remove(self, path: VirtualPath) -> Awaitable[None]:
        """Remove a file, a link, or the part file of an upload that was cut."""

    def rename(self, old: VirtualPath, new: VirtualPath) -> Awaitable[None]:
        """Rename a file or directory, in place of an old one if the user may overwrite."""

    def set_time(self, path: VirtualPath, modified: float) -> Awaitable[float]:
        """Set the time of modification, in seconds since 1970. Return the time that was stored."""

    def set_mode(self, path: VirtualPath, mode: int) -> Awaitable[int]:
        """Set the permission bits. Return those that were stored."""

    def size(self, path: VirtualPath) -> Awaitable[int]:
        """Return the size of a file in bytes, or that of the part file of an upload that was cut."""

    def free_space(self, path: VirtualPath) -> Awaitable[int]:
        """Return the free bytes of the disk or the quota, whichever are fewer. No permission is needed."""

    def available_space(self, path: VirtualPath) -> Awaitable[int]:
        """Return the free bytes for a new file. The permission to list is needed."""

    def usage(self) -> Awaitable[Usage | None]:
        """Return what the home holds, or None if nobody has a quota in it."""

    @property
    def walking(self) -> bool:
        """Whether a command walks through a directory or a tree now."""

    def stop(self, reply: Reply) -> None:
        """End the walk that runs, if there is one. Its awaitable raises Refusal with that reply."""
