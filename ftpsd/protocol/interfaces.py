"""What commands require of the parts of the daemon that do input and output, as typing Protocols.

The parts implement them without importing commands or sessions, and mypy checks each implementation where it is made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from ftpsd.protocol.addresses import Address, Endpoint
from ftpsd.protocol.checksums import Checksum
from ftpsd.protocol.encoding.names import UTF8, NameEncoding
from ftpsd.protocol.listing import Entry
from ftpsd.protocol.parsing import ListRequest
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import Parts, Permissions
from ftpsd.protocol.replies import Reply

T = TypeVar("T")

#: Which way the bytes of a file go, as the client sees it.
Direction = Literal["upload", "download"]

#: What a transfer moves, and which way.
TransferKind = Literal["download", "upload", "append", "listing"]

#: What a command has done to a file or directory.
Change = Literal[
    "deleted", "renamed", "directory_made", "directory_removed", "tree_removed", "time_changed", "mode_changed"
]

#: Opens the source of a download or the target of an upload. It blocks: a command passes it from `Files` to `Data`,
#: which calls it in a worker thread.
Opening = Callable[[], T]

#: Is called with what was opened, in the reactor thread.
Opened = Callable[[T], None]


class Waiting(Protocol):
    """Something for which other threads work, for example to reach storage over a network."""

    def pending(self, complete: bool = False) -> float:
        """Return the seconds after which to ask again; 0 when the next method can be called without a long wait.

        The seconds grow from look to look; fewer than at the last one say that the other threads have made progress.

        For an upload, `complete` says that all bytes were written: then `publish` is next. Does not block. Raises
        what the other threads have failed with.
        """


class Source(Waiting, Protocol):
    """The bytes of a download or listing. The methods block. `pending` is asked before each piece is taken."""

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes in pieces, of which some may be empty. A piece is valid until the next one is taken."""

    def close(self) -> None:
        """Free what is open. May be called any number of times."""


class Reader(Source, Protocol):
    """A file or a part of one, open for reading."""

    @property
    def offset(self) -> int:
        """The position in the file of the byte that is read next."""

    @property
    def size(self) -> int:
        """The size of the file when it was opened, in bytes."""

    @property
    def known_checksum(self) -> str:
        """The checksum of the whole file that was wanted, in hexadecimal digits; empty if it must be computed."""


class Upload(Waiting, Protocol):
    """A file that is being received. Nobody sees it until it is published. The methods block.

    `pending` is asked before each `write`, and before `publish`.
    """

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

    def discard_written(self) -> None:
        """Keep nothing for resuming, unless nothing was written: then what the upload started with is kept."""

    def close(self) -> None:
        """End the upload. One that was not published may be kept for resuming. May be called any number of times."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer is: the bytes that it has moved, their total if that is known, and bytes per second."""

    direction: Direction
    bytes: int
    expected_size: int | None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What is used of the limits of bytes and of files in a home or folder. None is no limit."""

    bytes: int
    files: int
    max_bytes: int | None
    max_files: int | None
    #: The path of the folder; that of the root for a home.
    at: Parts = ()
    #: The groups that have these limits; empty for the user's own.
    bytes_group: str = ""
    files_group: str = ""


class Files(Protocol):
    """The files of one user. No path leads out of the home, and the user's permissions hold at each place.

    Each method is called in the reactor thread and does not block. The awaitables raise Refusal or OSError.
    `listing`, `reader` and `writer` return an `Opening`, which raises these too. The interface has one method for each
    operation of FTP, so it is larger than other classes may be.
    """

    def listing(self, path: VirtualPath, request: ListRequest, line: Callable[[Entry], str]) -> Opening[Source]:
        """Return the opening of a listing; `line` formats an entry. The lines are made while they are sent."""

    def reader(self, path: VirtualPath, offset: int, end: int | None, checksum: str = "") -> Opening[Reader]:
        """Return the opening of a file for reading, from `offset` to before `end` (None: the end of the file).

        `checksum` is the algorithm of a checksum that the reader returns if the storage knows it.
        """

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

    def usage(self, path: VirtualPath) -> Awaitable[Usage | None]:
        """Return what the home or folder of a path holds, or None if nobody has a quota in it."""

    @property
    def walking(self) -> bool:
        """Whether a command walks through a directory or a tree now."""

    def stop(self, reply: Reply) -> None:
        """End the walk that runs, if there is one. Its awaitable raises Refusal with that reply."""


class Turns(Protocol):
    """The turns of one transfer at a rate limit. The methods are called in worker threads."""

    @property
    def first(self) -> float:
        """The time of the first turn."""

    def leave(self) -> None:
        """Remove the transfer."""

    def allowance(self, since: float) -> int:
        """Return the number of bytes that may move in this turn, if the last turn began at `since`."""

    def charge(self, count: int) -> float:
        """Charge `count` bytes that were moved. Return the time at which the transfer may continue."""


class RateLimit(Protocol):
    """A rate limit that several transfers share."""

    def join(self) -> Turns:
        """Add a transfer. Is called in worker threads."""


class Lease(Protocol):
    """What the session of a user may use of what all sessions share (see `limits/ledger.py`)."""

    def rate_limits(self, direction: Direction) -> Sequence[RateLimit]:
        """Return the rate limits that limit transfers in one direction; empty without limits."""

    def transfer(self) -> AbstractAsyncContextManager[None]:
        """Count a transfer of a file while the context lasts. Entering raises Refusal for one transfer too many."""


@dataclass(slots=True)
class Account:
    """The user of a session, and what the login gave to the session."""

    name: str
    permissions: Permissions
    files: Files
    #: off, allow or require: whether data connections must resume the TLS session of the control connection.
    data_session: str
    #: require or lenient: whether an upload is complete without TLS close_notify.
    close_notify: str
    lease: Lease
    #: Frees what the login gave. Is called once.
    logout: Callable[[], None]
    #: The encoding of the names that the user's device sends.
    names: NameEncoding = UTF8


class Data(Protocol):
    """The data connections of one session, one at a time.

    All methods are called in the reactor thread. `send`, `receive` and `digest` raise Refusal or OSError, also those
    of the `Opening`, which they call in a worker thread; whatever happens, they close what it opened.
    """

    #: The key under which worker threads count the session's jobs: a user name, or the client's network.
    owner: str
    #: Returns the rate limits that limit transfers in one direction.
    rate_limits: Callable[[Direction], Sequence[RateLimit]]
    #: Whether an upload is complete without TLS close_notify.
    lenient: bool

    @property
    def prepared(self) -> bool:
        """Whether PASV, EPSV, PORT or EPRT has prepared the next data connection."""

    @property
    def moved(self) -> int:
        """The bytes that the running transfer has moved so far, or that the last one moved."""

    def progress(self) -> Progress | None:
        """Return how far the running transfer is, or None."""

    def passive(self, announce: bool) -> Endpoint:
        """Listen for the next data connection. Return the port and, if `announce` is true, the address for a 227 reply.

        Raises Refusal when all passive ports are in use.
        """

    def is_own(self, target: Endpoint) -> bool:
        """Return whether an endpoint is a control port of this daemon."""

    def active(self, target: Endpoint) -> None:
        """Prepare a data connection to an endpoint of the client."""

    def send(
        self, opening: Opening[Source], opened: Opened[Source], text: bool = False, walk: bool = False
    ) -> Awaitable[int]:
        """Send what `opening` opens. Return the number of bytes sent.

        `opened` is called before the first byte is sent. `text` converts line ends (TYPE A). `walk` says that the
        source reads directories, for which other worker threads are used.
        """

    def receive(self, opening: Opening[Upload], opened: Opened[Upload], text: bool = False) -> Awaitable[int]:
        """Receive into the upload that `opening` opens, and publish it. Return the number of bytes received."""

    def digest(self, opening: Opening[Reader], digest: Checksum) -> Awaitable[tuple[int, int]]:
        """Compute the checksum of what `opening` opens. Return where that starts and ends in the file."""

    def abort(self, reply: Reply) -> None:
        """End the transfer that waits, runs or is about to, with a Refusal that has this reply."""

    def reset(self) -> None:
        """Close what PASV, EPSV, PORT or EPRT has prepared. A running transfer continues."""

    def settle(self) -> None:
        """Forget an abort: the command for which it was meant has ended."""

    def input_ended(self, reply: Reply, expected: bool) -> None:
        """Note that the client has closed its side of the control connection. `expected`: it has sent QUIT.

        An upload whose end cannot be proved is ended with this reply, unless its data keeps arriving.
        """

    def close(self, reply: Reply) -> None:
        """End everything: the session is over. An upload may continue with bytes that were sent before."""


#: Looks a name up with the certificate of the client. The function is called for each failed login that this counts.
Identify = Callable[[str, Callable[[], None]], Awaitable[Account | None]]


class Control(Protocol):
    """The control connection of one session. All methods are called in the reactor thread."""

    #: Whether the listener expects TLS from the first byte.
    implicit: bool
    #: The addresses of the client and of the server.
    client: Address
    server: Address
    #: How names are encoded now. `Session.choose_encoding` sets it.
    names: NameEncoding
    #: Returns the time of day, in seconds since 1970.
    now: Callable[[], float]
    #: Sets the idle timeout, in seconds.
    set_idle_timeout: Callable[[int], None]
    #: Is called with the name of USER; None: certificates of clients do not count. Returns the account if the client's
    #: certificate is enough for a login, or None if a password is needed. Raises WrongCertificate and Refusal.
    identify: Identify | None
    #: Is called when a user logs out: the limits of sessions without a login hold again.
    forget_login: Callable[[], None]

    @property
    def encrypted(self) -> bool:
        """Whether TLS protects the control connection."""

    @property
    def tls_name(self) -> str:
        """The host name that the client sent in its TLS handshake (SNI); empty for none."""

    def login(self, user: str, password: str) -> Awaitable[Account | None]:
        """Check a password. Return None if the name or the password is wrong.

        Raises Refusal for a user who may not log in now, and SessionEnd for one session too many.
        """

    def send_reply(self, reply: Reply) -> None:
        """Send a reply."""

    def call_after_reply(self, step: Callable[[], None]) -> None:
        """Call `step` after the final reply of the command that runs."""

    def start_tls(self, host: str = "") -> None:
        """Start the TLS handshake. `host` chooses the certificate if the handshake names none."""

    def stop_tls(self) -> None:
        """Continue in plain text (CCC, REIN)."""

    def close(self) -> None:
        """Close the connection after all replies are sent."""


class Events(Protocol):
    """Where a session reports what its commands and data connections do. For the reactor thread; never raises.

    The end of a transfer is no call: it is known from the final reply of its command.
    """

    def transfer_started(self, kind: TransferKind, path: VirtualPath, offset: int = 0, ascii: bool = False) -> None:
        """What is to be transferred was opened. `offset` is the first byte of the file that is transferred."""

    def file_changed(self, change: Change, path: VirtualPath, new_path: VirtualPath | None = None) -> None:
        """A command has changed a file or directory. `new_path` is the target of a rename."""

    def data_connection_refused(self, peer: Address) -> None:
        """A host that is not the client has connected to the passive port."""
