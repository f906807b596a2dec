"""The interfaces of storage: what a home is, what it gives to a session, and how its changes are counted.

A new kind of storage implements `Backend` and `Files`; `tests/test_files.py` is the test suite for both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Generator, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from ftpsd.config.settings import QuotaSettings, UserSettings
from ftpsd.events.types import SessionInfo
from ftpsd.limits.home_counts import Amount
from ftpsd.protocol import interfaces
from ftpsd.protocol.listing import Entry
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import Parts, Permissions
from ftpsd.protocol.replies import Refusal


class User(Protocol):
    """A user who has logged in."""

    @property
    def name(self) -> str:
        """The name of the account."""

    @property
    def settings(self) -> UserSettings:
        """The user's settings, merged with the defaults."""


_NO_QUOTA = QuotaSettings()


@dataclass(frozen=True, slots=True)
class Mount:
    """A tree of files, and where its user sees it: the home at the root, or a folder.

    All paths are those that the user sees, also in the rules for permissions and in replies and events.
    """

    #: Where the files are: for a directory of this machine its absolute path, without symbolic links.
    place: str
    permissions: Permissions
    quota: QuotaSettings = _NO_QUOTA
    at: Parts = ()
    #: The names of the folders that are mounted in directories of this tree, by directory. Entries that have the same
    #: names are hidden.
    covered: Mapping[Parts, frozenset[str]] = field(default_factory=dict)


def mount_of_home(user: User) -> Mount:
    """Return the home of a user who has no folders."""
    return Mount(user.settings.home or "", user.settings.permission_rules, user.settings.quota)


class Trees(Protocol):
    """Opens all that a user sees: the home, with the folders in it."""

    def open(self, user: User, session: SessionInfo) -> Awaitable[Files]:
        """Return the files of a user for one session. The caller closes them.

        Raises OSError if the home cannot be counted for a quota.
        """


class Backend(Protocol):
    """A kind of storage for homes and folders."""

    def open(self, user: User, session: SessionInfo, mount: Mount | None = None) -> Awaitable[Files]:
        """Return the files of a home or folder for one session. None stands for the user's home. See `Trees`."""


#: Whether the time of a name in a directory is shown.
IsTimed = Callable[[str], bool]


def every_name(_: str) -> bool:
    """Times are shown of all names."""
    return True


def no_name(_: str) -> bool:
    """Times are shown of no names."""
    return False


def require_in_file(offset: int, end: int | None, size: int) -> None:
    """Raise Refusal if a file of this size has nothing at the offset, of REST or of a range that ends before `end`.

    REST may name the end: a client resumes a download that was complete. A range has at least one byte, but the
    one that starts at 0 is allowed for an empty file, too.
    """
    if offset > size or (end is not None and offset == size > 0):
        raise Refusal(554, f"File has only {size} bytes.")


class Directories(Protocol):
    """Reads directories, for listings. Everything blocks, and raises Refusal or OSError."""

    def entry(self, path: VirtualPath, *permissions: str) -> Entry:
        """Return the facts of a name at which one of the permissions holds."""

    def portions(
        self, path: VirtualPath, with_dots: bool, is_timed: IsTimed = every_name
    ) -> Generator[list[Entry], None, None]:
        """Yield the entries of a directory in portions, in no order. Each takes a few disk calls, and may be empty.

        With `with_dots` the first portion is `.` and `..`. Nobody sees the time of a name that is not timed: a storage
        that must ask for it need not do that.
        """

    def listed(
        self, path: VirtualPath, with_dots: bool, is_timed: IsTimed = every_name
    ) -> Generator[list[Entry], None, None] | Entry:
        """Return the portions of a directory, or the entry of what is none. The user must be permitted to list it."""

    def are_in_order(self, path: VirtualPath) -> bool:
        """Return whether the portions of a directory follow each other in the order of the names: they need not wait.

        Within a portion there is no order.
        """

    def names_below(self, path: VirtualPath) -> Iterator[list[str]]:
        """Yield the names of the directories in a directory, in portions, in no order."""


def entry_or_portions(
    directories: Directories, path: VirtualPath, with_dots: bool, is_timed: IsTimed
) -> Generator[list[Entry], None, None] | Entry:
    """Do what `Directories.listed` does, with `entry` and `portions`."""
    entry = directories.entry(path, "list")
    return directories.portions(path, with_dots, is_timed) if entry.is_directory else entry


class Files(interfaces.Files, Protocol):
    """The files of one user in one session."""

    @property
    def directories(self) -> Directories:
        """What reads the directories, in a thread of the caller."""

    def move_to(self, other: Files, old: VirtualPath, new: VirtualPath) -> Awaitable[None]:
        """Rename a file to a path in other files of the same user. Raises Refusal (553) if that is not possible."""

    def close(self) -> None:
        """End the walk that runs, if there is one: the session has ended."""


class CountableFiles(Files, Protocol):
    """Files whose changes can be counted, so that a quota can wrap them."""

    @property
    def root(self) -> object:
        """What `move_to` of other files of the same kind needs."""

    def set_mode(self, path: VirtualPath, mode: int, directory_mode: int | None = None) -> Awaitable[int]:
        """Set the permission bits: `directory_mode` if the path is a directory. Return those that were stored."""

    def count_changes(self, counter: ChangeCounter) -> None:
        """Call the counter around each change from now on. Called once, before the first operation."""


# --- counting ----------------------------------------------------------------------------------------


#: Returns what certain names hold now. Part files whose identities are in the container are left out: their uploads are
#: charged for them. Blocks.
Measure = Callable[[Container[Hashable]], Amount]


class ChangeCounter(Protocol):
    """Counts changes where they are made: `Files` calls it in the thread that makes them, and it may block.

    Entering `changing` or `receiving`, and `upload`, raise Busy in a worker thread while another job changes the home
    (see `HomeUsage.changing`). A job in steps uses `repeated`.
    """

    def changing(self, measure: Measure) -> AbstractContextManager[object]:
        """Measure before and after the body, which changes names. The body must be short: other sessions wait."""

    @property
    def order(self) -> str:
        """Return what identifies the home that is counted. `changing` of two counters is entered in this order."""

    def receiving(self, amount: Amount, measure: Measure) -> AbstractContextManager[object]:
        """As `changing`, for a body that moves an amount here from files that another counter counts.

        Entering raises Refusal if the limit does not permit the amount.
        """

    def require_a_file(self) -> None:
        """Raise Refusal if no file or directory may be added. Called within `changing`, to make a directory."""

    def upload(self, measure: Measure, begin: Callable[[], Upload]) -> interfaces.Upload:
        """Begin an upload, and return one that is charged for each byte before it is written."""


class PartFile(Protocol):
    """A second open handle of an upload's part file, so that it can be measured after the upload was closed."""

    @property
    def identity(self) -> Hashable:
        """The value that identifies this part file in the container passed to `Measure`."""

    @property
    def held(self) -> Amount:
        """The amount that another upload had left in the part file under the same identity."""

    def amount(self) -> Amount:
        """Return the amount that the part file occupies now: nothing if it was removed."""

    def close(self) -> None:
        """Close this handle."""


class Upload(interfaces.Upload, Protocol):
    """An upload that a `ChangeCounter` can charge. `publish` does the work of `flush`, `take_name` and `settle`."""

    def initial_amount(self) -> Amount:
        """Return the bytes that the upload starts with, and one file if its name is new."""

    def open_part_file(self) -> PartFile:
        """Return another handle of the part file."""

    def discard_written(self) -> None:
        """Keep nothing of it for resuming, unless nothing was written: then what it started with is kept."""

    def flush(self) -> None:
        """Store all bytes. May take long."""

    def replaces(self) -> bool:
        """Return whether there is something of the name now."""

    def measure(self, charged: Container[Hashable]) -> Amount:
        """Return what the name and its part file hold now (see `Measure`)."""

    def take_name(self) -> bool:
        """Give the file its name. Takes no longer than a few calls.

        Return whether the part file has the name now: otherwise its bytes were appended to the old file.
        """

    def settle(self) -> None:
        """Store the name. May take long."""


class HomeMeter(Protocol):
    """Measures whole homes, in worker threads."""

    def exists(self, home: str) -> bool:
        """Return whether there is such a home."""

    def amounts(self, home: str, charged: Container[Hashable]) -> Iterator[Amount]:
        """Yield what the home holds, in short steps (see `Measure`). Raises OSError."""
