"""The state of one session, and the checks that every command passes before it runs.

A session uses the rest of the daemon through the Protocols in `interfaces` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ftpsd.protocol import parsing
from ftpsd.protocol.checksums import HASHES
from ftpsd.protocol.command import FOREIGN, NOT_SERVED, Command
from ftpsd.protocol.interfaces import Account, Control, Data, Files, Lease
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
    protection: str = "C"
    epsv_only: bool = False
    host_said: bool = False
    aborted: bool = False
    facts: frozenset[str] = frozenset(FACTS)
    hash: str = next(iter(HASHES))
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
            raise Refusal(550, f"{path}: no permission to {PERMITTED_ACTIONS[permissions[0]]}.")
        return path

    def take_restart(self) -> tuple[int, int | None]:
        """What REST and RANG said: the first byte, and the one behind the last (None: to the end)."""
        first, last = self.byte_range or (self.restart_offset, None)
        return first, None if last is None else last + 1

    # --- the gate ------------------------------------------------------------------------------

    def find(self, verb: str) -> Row:
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

    def admit(self, row: Row, argument: str) -> object:
        """The value of the argument, if the row may run now; else a Refusal."""
        if row.login and self.account is None:
            raise Refusal(530, "Log in with USER and PASS first.")
        value = self._resolve(row, row.parse(argument))
        if row.uses_data:
            self._admit_data()
        return value

    def _resolve(self, row: Row, value: object) -> object:
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
