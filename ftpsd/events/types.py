"""The events: what happened, with typed fields. None of them can contain a secret.

Texts of a client (`argument`, `name`) are as they came, of any length and with any characters: a listener that writes
them into lines uses `printable`. A name that no user has is hidden, and so is an argument whose command may carry a
password (`SessionEvents`), since either may be a password in the wrong place.

The classes are frozen but have no slots: an event costs half as much then, and many are made for each transfer.
"""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen

from ftpsd.protocol.interfaces import Change, TransferKind

#: What is banned. After failed logins: an address, a user's name for unknown addresses, or a name from a site. By an
#: administrator: an address or network, or the account of a user.
BanKind = Literal["address", "user", "site", "network", "account"]


#: How a ban has ended.
EndOfBan = Literal["lifted", "expired"]


def ban_name(kind: BanKind, subject: str) -> str:
    """Return how the log names a ban, at its begin and at its end: `address 203.0.113.9`, `account alice`."""
    return f"{kind} {subject}"


@frozen
class SessionInfo:
    """Which session an event is about. A login makes a new one."""

    number: int
    #: The client's address, without an IPv6 zone.
    address: str
    #: What limits count clients by: the address, or the /64 of an IPv6 address.
    network: str
    #: The user's name; empty without a login.
    user: str = ""
    #: Whether it is the health check of a load balancer, which the log does not show.
    is_check: bool = False

    #: How log lines about the session begin.
    label: str = field(init=False)

    @label.default
    def _label(self) -> str:
        return f"({self.number:06d}) {self.user or '-'} ({self.address})>"

    def with_user(self, user: str) -> SessionInfo:
        """Return the same session with a user; empty without a login."""
        return SessionInfo(self.number, self.address, self.network, user, self.is_check)


@frozen(slots=False)
class Event:
    """Something that happened in the daemon."""


@frozen(slots=False)
class SessionEvent(Event):
    """Something that happened in a session."""

    session: SessionInfo


# --- sessions ------------------------------------------------------------------------------------


@frozen(slots=False)
class SessionOpened(SessionEvent):
    """A client has connected."""

    implicit_tls: bool


@frozen(slots=False)
class SessionRejected(SessionEvent):
    """A client has connected and was sent away. Of a banned client, only the first attempt is an event."""

    text: str


@frozen(slots=False)
class SessionDismissed(SessionEvent):
    """The daemon ends the session, since it stops or an administrator wants it."""

    code: int
    text: str


@frozen(slots=False)
class SessionClosed(SessionEvent):
    """The control connection is closed, `seconds` after it was opened."""

    seconds: float


@frozen(slots=False)
class TlsFailed(SessionEvent):
    """TLS of the control connection has failed."""

    error: str


@frozen(slots=False)
class WrongProtocol(SessionEvent):
    """A client has begun with TLS at a port for explicit TLS."""


@frozen(slots=False)
class PlainTextAfterAuth(SessionEvent):
    """Plain text came together with AUTH. It may be an attacker's (CVE-2011-0411): the connection was cut."""


@frozen(slots=False)
class CommandsSlowed(SessionEvent):
    """The client sends more commands per second than `rate`; they wait. Published once per session."""

    rate: int


# --- logins --------------------------------------------------------------------------------------


@frozen(slots=False)
class LoggedIn(SessionEvent):
    """A user has logged in. `rates` states the bandwidth that the session may use, empty without a limit.

    `certificate` is the subject of the client's certificate and `fingerprint` its SHA-256; empty without one.
    """

    rates: str
    certificate: str = ""
    fingerprint: str = ""


@frozen(slots=False)
class LoggedOut(SessionEvent):
    """A user has logged out and the session continues (REIN, or another USER)."""


@frozen(slots=False)
class LoginFailed(SessionEvent):
    """The name or the password was wrong."""

    name: str


@frozen(slots=False)
class LoginRefused(SessionEvent):
    """The password was right and the user may not log in here and now, or cannot."""

    name: str
    #: disabled, network, expired or hours (the user's settings), source or another word (the source refuses), limit
    #: (too many sessions), disk (it does not respond), certificate (the client's is missing or another user's; no
    #: password was asked for), configuration (it has changed since the session began)
    reason: str
    text: str


@frozen(slots=False)
class LoginCheckFailed(SessionEvent):
    """The login could not be checked."""

    error: str


@frozen(slots=False)
class Banned(SessionEvent):
    """Failed logins have caused a ban of an address, a user's name, or a name from a site, for `seconds`.

    The subject is the address, the name, or the site, a blank and the name.
    """

    kind: BanKind
    subject: str
    seconds: float
    text: str


@frozen(slots=False)
class BanAdded(Event):
    """An administrator has banned a network or the account of a user, for `seconds` (None: until the ban is lifted)."""

    kind: BanKind
    subject: str
    seconds: float | None


@frozen(slots=False)
class BanEnded(Event):
    """A ban has ended, with the kind and subject of its begin: an administrator has lifted it, or its time is over."""

    kind: BanKind
    subject: str
    reason: EndOfBan


# --- commands and transfers ----------------------------------------------------------------------


@frozen(slots=False)
class CommandAnswered(SessionEvent):
    """A command has had its final reply, `seconds` after it began.

    `bytes` is None for a command that moves none. `changed` says that it has changed or transferred a file.
    """

    command: str
    argument: str
    code: int
    text: str
    seconds: float
    bytes: int | None
    changed: bool


@frozen(slots=False)
class QuietCommandAnswered(CommandAnswered):
    """The same, for a command that succeeded and has only asked something: PWD, TYPE, NOOP …"""


@frozen(slots=False)
class TransferStarted(SessionEvent):
    """A file or listing was opened, and its bytes move as soon as the data connection is there."""

    kind: TransferKind
    path: str
    #: The first byte of the file that is transferred.
    offset: int


@frozen(slots=False)
class TransferEnded(SessionEvent):
    """A transfer that has started has ended. An upload with a 2xx reply is in place under `path`."""

    kind: TransferKind
    path: str
    offset: int
    #: Whether line ends were converted (TYPE A).
    ascii: bool
    #: Bytes that were moved; in text mode, as counted on the data connection.
    bytes: int
    #: Seconds from TransferStarted to the final reply.
    seconds: float
    code: int
    text: str
    #: The id of its record if the journal has it already (`DurableIds`); empty otherwise.
    identity: str = ""

    @property
    def complete(self) -> bool:
        """Whether all bytes have arrived."""
        return self.code < 400

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.bytes / self.seconds if self.seconds > 0 else 0.0


@frozen(slots=False)
class FileChanged(SessionEvent):
    """A command other than an upload has changed the files of the user. `new_path` is the target of a rename."""

    change: Change
    path: str
    new_path: str | None
    #: The id of its record if the journal has it already (`DurableIds`); empty otherwise.
    identity: str = ""


@frozen(slots=False)
class DataConnectionRefused(SessionEvent):
    """A host that is not the client has connected to the passive port of a session."""

    peer: str


# --- the daemon ----------------------------------------------------------------------------------


@frozen(slots=False)
class DaemonStarted(Event):
    """The daemon serves clients."""


@frozen(slots=False)
class DaemonStopping(Event):
    """The daemon refuses new sessions, and lets transfers run for up to `seconds`."""

    seconds: int


@frozen(slots=False)
class ConfigurationLoaded(Event):
    """A reload has succeeded: new sessions get the new configuration."""


@frozen(slots=False)
class ConfigurationRefused(Event):
    """A reload has failed: the old configuration remains in effect."""

    faults: tuple[str, ...]


@frozen(slots=False)
class AdministrativeAct(Event):
    """An administrator has done something by the administration's interface: `action` is "kick", "ban", "reload" …

    `subject` is what it was done to (a session, a user, an address), empty for the daemon. `administrator` says who:
    the user of the system, or the address of the page's client.
    """

    action: str
    subject: str
    administrator: str
