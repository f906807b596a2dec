"""The state of one session, and the checks that every command passes before it runs.

A session uses the rest of the daemon through the Protocols in `interfaces` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ftpsd.protocol import parsing
from ftpsd.protocol.checksums import HASHES
from ftpsd.protocol.command import FOREIGN, NOT_SERVED, Command
from ftpsd.protocol.encoding.names import UTF8, NameEncoding, Undecodable
from ftpsd.protocol.interfaces import Account, Control, Data, Events, Files, Lease
from ftpsd.protocol.listing import FACTS
from ftpsd.protocol.login_rules import Network
from ftpsd.protocol.parsing import Name
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import PERMITTED_ACTIONS, Permissions
from ftpsd.protocol.replies import Refusal, SessionEnd

#: A row of the table of commands, and the table by verb.
Row = Command["Session", object]
Table = Mapping[str, Row]


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that commands need."""

    login_needs_tls: bool = True
    data_needs_tls: bool = True
    active: bool = True
    #: The networks of other hosts that may have data connections (`foreign_data`).
    foreign_networks: tuple[Network, ...] = ()
    login_failures: int = 3
    idle: int = 300


@dataclass(slots=True)
class Session:
    """The state of one session. The names are those of RFC 959. REIN resets it by `reinitialize`."""

    number: int
    control: Control
    data: Data
    events: Events
    policy: Policy
    table: Table
    user: str | None = None
    account: Account | None = None
    #: Whether the certificate of the client was enough for the login.
    by_certificate: bool = False
    failures: int = 0
    directory: VirtualPath = field(default_factory=VirtualPath)
    representation: str = "A"
    restart_offset: int = 0
    #: The size that ALLO has given for the next upload. It is shown to administrators only.
    allocated: int | None = None
    byte_range: tuple[int, int] | None = None
    rename_from: VirtualPath | None = None
    protection: str = "C"
    epsv_only: bool = False
    #: The host that the client has named with HOST.
    host: str = ""
    aborted: bool = False
    facts: frozenset[str] = frozenset(FACTS)
    #: Whether OPTS UTF8 ON has chosen UTF-8, whatever the encoding of the user is.
    utf8: bool = False
    hash: str = next(iter(HASHES))
    client_name: str = ""

    @property
    def files(self) -> Files:
        """The user's files. Raises Refusal without a login, as the next two do."""
        return self._logged_in().files

    @property
    def lease(self) -> Lease:
        """What the user may use of what all sessions share."""
        return self._logged_in().lease

    @property
    def permissions(self) -> Permissions:
        """The user's permissions."""
        return self._logged_in().permissions

    @property
    def names(self) -> NameEncoding:
        """How names in commands, replies and listings are encoded."""
        return self.control.names

    def choose_encoding(self) -> None:
        """Use the encoding of the user, or UTF-8: without a login, and after OPTS UTF8 ON."""
        self.control.names = UTF8 if self.account is None or self.utf8 else self.account.names

    def _logged_in(self) -> Account:
        if self.account is None:
            raise Refusal(530, "Log in with USER and PASS first.")
        return self.account

    def reinitialize(self) -> None:
        """Reset all but the control connection and the number of failed logins (REIN, RFC 959 section 4.1.1)."""
        self.log_out()
        fresh = Session(self.number, self.control, self.data, self.events, self.policy, self.table)
        for name in Session.__slots__:
            if name != "failures":
                setattr(self, name, getattr(fresh, name))
        self.protection = "P" if self.control.implicit else "C"

    def log_out(self) -> None:
        """Log the user out, if one is logged in, and close a prepared data connection."""
        account, self.account = self.account, None
        self.choose_encoding()
        self.data.reset()
        if account is not None:
            self.control.forget_login()
            account.logout()

    def resolve(self, name: str, *permissions: str) -> VirtualPath:
        """Return the path that `name` means. Raises Refusal if none of the permissions can hold there.

        `Files` checks the permissions again, with the spelling that the name has on the disk.
        """
        path = self.directory.join(name)
        if permissions and self.permissions.possibly(path.parts).isdisjoint(permissions):
            raise Refusal(550, f"{path}: no permission to {PERMITTED_ACTIONS[permissions[0]]}.")
        return path

    def transfer_range(self) -> tuple[int, int | None]:
        """Return what REST or RANG has set: the first byte, and the byte after the last (None: to the end)."""
        first, last = self.byte_range or (self.restart_offset, None)
        return first, None if last is None else last + 1

    # --- the checks before a command -------------------------------------------------------------

    def find(self, verb: str) -> Row:
        """Return the row of a verb. Raises Refusal for a verb without a row, SessionEnd for one of another protocol."""
        row = self.table.get(verb)
        if row is not None:
            return row
        if verb in FOREIGN:
            raise wrong_protocol(FOREIGN[verb])
        if verb in NOT_SERVED:
            raise Refusal(502, f"{verb} not implemented.")
        raise Refusal(500, "Unknown command: send HELP for a list.")

    def is_imap(self, line: bytes) -> bool:
        """Return whether a line is a command of IMAP: a tag that is no verb of FTP, then a verb of IMAP.

        A user who has logged in speaks FTP: the answer is False.
        """
        tag = parsing.imap_tag(line) if self.account is None else None
        return tag is not None and tag not in self.table and tag not in NOT_SERVED

    def admit(self, row: Row, argument: str) -> object:
        """Return the value of the argument. Raises Refusal if the command may not run now or with it."""
        if row.login and self.account is None:
            raise Refusal(530, "Log in with USER and PASS first.")
        if isinstance(argument, Undecodable):
            raise Refusal(553, f"Name is not valid in {self.names.name}: set the client to that, or send OPTS UTF8 ON.")
        value = row.parse(argument)
        if value is not None:
            value = self._resolve_names(row, value)
        if row.uses_data:
            self._admit_data()
        return value

    def _resolve_names(self, row: Row, value: object) -> object:
        if isinstance(value, Name):
            return self.resolve(value, *row.permissions)
        if isinstance(value, tuple):
            return tuple(self._resolve_names(row, each) for each in value)
        return value

    def _admit_data(self) -> None:
        if self.policy.data_needs_tls and self.protection != "P":
            raise Refusal(521, "Data connections must be encrypted: send PBSZ 0 and PROT P first.")
        if not self.data.prepared:
            raise Refusal(425, "Send EPSV, PASV, EPRT or PORT first.")


def wrong_protocol(protocol: str) -> SessionEnd:
    """Return the exception that ends a session with a client of another protocol.

    An attacker may have sent a browser here (ALPACA), or somebody has mistaken the port.
    """
    return SessionEnd(421, f"This is an FTP server: {protocol} is not supported.")
