"""Session: what one client has said so far, and the gate that every command passes.

The session knows its surroundings by the protocols below only: who moves bytes, who reads the disk
and who knows users are behind them, and no file above this line imports Twisted.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from ftpsd.protocol import parsing
from ftpsd.protocol.command import FOREIGN, NOT_SERVED, Command, Table
from ftpsd.protocol.interfaces import Direction, Files, Opened, Opening, Progress, Reader, Source, Upload
from ftpsd.protocol.listing import FACTS
from ftpsd.protocol.login_rules import Network
from ftpsd.protocol.parsing import Address, Endpoint, Name
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import Permissions
from ftpsd.protocol.replies import Refusal, Reply, SessionEnd


class Digest(Protocol):
    """A running checksum."""

    def update(self, data: bytes | memoryview, /) -> None:
        """More of the file."""

    def hexdigest(self) -> str:
        """The checksum of all of it."""


class Crc32:
    """CRC-32 (IEEE 802.3) with the face of `hashlib`."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | memoryview, /) -> None:
        """More of the file."""
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        """Eight hexadecimal digits."""
        return f"{self._value:08x}"


#: What HASH computes (draft-bryan-ftpext-hash), the default first.
HASHES: dict[str, Callable[[], Digest]] = {
    "SHA-256": hashlib.sha256,
    "SHA-512": hashlib.sha512,
    "SHA-1": lambda: hashlib.sha1(usedforsecurity=False),
    "MD5": lambda: hashlib.md5(usedforsecurity=False),
    "CRC32": Crc32,
}


class Lease(Protocol):
    """What the session of a user may use of what all sessions share (see `limits/ledger.py`)."""

    def buckets(self, direction: Direction) -> Sequence[Any]:
        """Return the token buckets that limit transfers in one direction; empty without limits."""

    def transfer(self) -> AbstractAsyncContextManager[None]:
        """Count a transfer of a file while the context lasts. Entering raises Refusal for one transfer too many."""


@dataclass(slots=True)
class Account:
    """Who has logged in, and what that opens."""

    name: str
    permissions: Permissions
    files: Files
    #: off | allow | require: must data connections resume this session's TLS session
    data_session: str
    #: require | lenient: is an upload complete without TLS close_notify
    close_notify: str
    lease: Lease
    logout: Callable[[], None]


class Data(Protocol):
    """The data connection: how it is to be opened, and what runs on it."""

    #: Whose jobs transfers are (see `fair_queue.py`).
    owner: str
    #: The token buckets that limit transfers in one direction.
    buckets: Callable[[Direction], Sequence[Any]]
    #: Whether an upload is complete without TLS close_notify.
    lenient: bool

    @property
    def prepared(self) -> bool: ...
    @property
    def moved(self) -> int: ...
    def progress(self) -> Progress | None: ...
    def passive(self, announce: bool) -> Endpoint: ...
    def is_own(self, target: Endpoint) -> bool: ...
    def active(self, target: Endpoint) -> None: ...
    def send(
        self, opening: Opening[Source], opened: Opened[Source], text: bool = False, walk: bool = False
    ) -> Awaitable[int]: ...
    def receive(self, opening: Opening[Upload], opened: Opened[Upload], text: bool = False) -> Awaitable[int]: ...
    def digest(self, opening: Opening[Reader], digest: Digest) -> Awaitable[tuple[int, int]]: ...
    def abort(self, reply: Reply) -> None: ...
    def reset(self) -> None: ...
    def settle(self) -> None: ...
    def input_ended(self, reply: Reply, expected: bool) -> None: ...
    def close(self, reply: Reply) -> None: ...


class Control(Protocol):
    """The control connection, and what belongs to the whole server."""

    @property
    def encrypted(self) -> bool: ...

    implicit: bool
    client: Address
    server: Address

    @property
    def tls_name(self) -> str: ...
    def say(self, reply: Reply) -> None: ...
    def then(self, step: Callable[[], None]) -> None: ...
    def start_tls(self) -> None: ...
    def stop_tls(self) -> None: ...
    def close(self) -> None: ...

    now: Callable[[], float]
    set_idle: Callable[[int], None]
    forget_login: Callable[[], None]

    def login(self, user: str, password: str) -> Awaitable[Account | None]: ...


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration says that commands must know."""

    login_needs_tls: bool = True
    data_needs_tls: bool = True
    active: bool = True
    #: The networks of other hosts with which data connections may be.
    foreign_networks: tuple[Network, ...] = ()
    login_failures: int = 3
    idle: int = 300


@dataclass(slots=True)
class Session:
    """One client. The words are RFC 959's; what REIN forgets is in `reinitialize`."""

    number: int
    control: Control
    data: Data
    policy: Policy
    table: Table
    user: str | None = None
    account: Account | None = None
    failures: int = 0
    directory: VirtualPath = field(default_factory=VirtualPath)
    representation: str = "A"
    restart_offset: int = 0
    byte_range: tuple[int, int] | None = None
    rename_from: VirtualPath | None = None
    buffer_size_said: bool = False
    protection: str = "C"
    epsv_only: bool = False
    host_said: bool = False
    aborted: bool = False
    facts: frozenset[str] = frozenset(FACTS)
    hash: str = "SHA-256"
    client_name: str = ""

    @property
    def files(self) -> Files:
        """The user's root."""
        return self._logged_in().files

    @property
    def lease(self) -> Lease:
        """What the user may use of what all sessions share."""
        return self._logged_in().lease

    @property
    def permissions(self) -> Permissions:
        """The user's permissions."""
        return self._logged_in().permissions

    def _logged_in(self) -> Account:
        if self.account is None:
            raise Refusal(530, "Log in with USER and PASS first.")
        return self.account

    def reinitialize(self) -> None:
        """Forgets all but the connection itself (REIN, RFC 959 section 4.1.1)."""
        self.leave()
        fresh = Session(self.number, self.control, self.data, self.policy, self.table)
        for name in Session.__slots__:
            if name != "failures":
                setattr(self, name, getattr(fresh, name))
        self.protection = "P" if self.control.implicit else "C"

    def leave(self) -> None:
        """The user goes: the avatar's logout is called, once."""
        account, self.account = self.account, None
        self.data.reset()
        if account is not None:
            self.control.forget_login()
            account.logout()

    def place(self, name: str, *permissions: str) -> VirtualPath:
        """Return the path that `name` means, if one of the permissions may hold there: the disk decides (`Files`)."""
        path = self.directory.join(name)
        if permissions and self.permissions.possibly(path.parts).isdisjoint(permissions):
            raise Refusal(550, f"{path}: no permission to {VERBS[permissions[0]]}.")
        return path

    def take_restart(self) -> tuple[int, int | None]:
        """What REST and RANG said: the first byte, and the one behind the last (None: to the end)."""
        first, last = self.byte_range or (self.restart_offset, None)
        return first, None if last is None else last + 1

    # --- the gate ------------------------------------------------------------------------------

    def find(self, verb: str) -> Command:
        """The row of a verb, or the refusal for one that has none."""
        row = self.table.get(verb)
        if row is not None:
            return row
        if verb in FOREIGN:
            raise not_spoken(FOREIGN[verb])
        if verb in NOT_SERVED:
            raise Refusal(502, f"{verb} not implemented.")
        raise Refusal(500, "Unknown command: send HELP for a list.")

    def hears_imap(self, line: bytes) -> bool:
        """Whether a line that comes before the login is a tag, which is no verb of ours, and a verb of IMAP."""
        tag = parsing.imap_tag(line) if self.account is None else None
        return tag is not None and tag not in self.table and tag not in NOT_SERVED

    def admit(self, row: Command, argument: str) -> Any:
        """The value of the argument, if the row may run now; else a Refusal."""
        if row.login and self.account is None:
            raise Refusal(530, "Log in with USER and PASS first.")
        value = self._resolve(row, row.parse(argument))
        if row.uses_data:
            self._admit_data()
        return value

    def _resolve(self, row: Command, value: Any) -> Any:
        if isinstance(value, Name):
            return self.place(value, *row.permissions)
        if isinstance(value, tuple):
            return tuple(self._resolve(row, each) for each in value)
        return value

    def _admit_data(self) -> None:
        if self.policy.data_needs_tls and self.protection != "P":
            raise Refusal(521, "Data connections must be encrypted: send PBSZ 0 and PROT P first.")
        if not self.data.prepared:
            raise Refusal(425, "Send EPSV, PASV, EPRT or PORT first.")


def not_spoken(protocol: str) -> SessionEnd:
    """The end of a session whose client was led here by somebody else, or by mistake."""
    return SessionEnd(421, f"This is an FTP server: {protocol} is not supported.")


#: How a permission reads in a refusal.
VERBS = {
    "list": "list",
    "download": "download",
    "upload": "upload",
    "overwrite": "overwrite files",
    "append": "append",
    "delete": "delete files",
    "rename": "rename",
    "mkdir": "make directories",
    "rmdir": "remove directories",
    "times": "change times",
    "chmod": "change modes",
}
