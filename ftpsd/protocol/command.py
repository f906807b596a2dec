"""Command: one row of the table of commands.

FEAT, HELP, the permission checks, what may be logged, and the table in `docs/conformance.md` are computed from the
rows.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Never, TypeVar, cast

from ftpsd.protocol.permissions import PERMISSIONS
from ftpsd.protocol.replies import Reply

#: The session. `session` imports this module, so a row does not name the type.
S = TypeVar("S")
#: The value of the argument, which the function of a row takes.
V = TypeVar("V", contravariant=True)

#: The final reply of a command, now or later. What such a coroutine yields is for the event loop only.
Result = Reply | Coroutine[Never, object, Reply]

#: Permissions of which one is needed, and the case: ("append",), "for an existing file".
Condition = tuple[tuple[str, ...], str]


@dataclass(frozen=True, slots=True)
class Command(Generic[S, V]):
    """One command: its syntax, the conditions under which it may run, and its function."""

    verb: str
    #: Converts the argument to a value. Raises Refusal.
    parse: Callable[[str], object]
    run: Callable[[S, V], Result]
    #: The syntax for HELP.
    help: str
    #: The RFC and section, or the draft, that specifies the command.
    rfc: str
    #: The permission that the user needs at each path in the argument.
    permission: str | None = None
    #: Permissions that are needed in some cases only. If `permission` is None, the command is refused for a path at
    #: which none of them can hold.
    conditional: tuple[Condition, ...] = ()
    #: Whether a login is required.
    login: bool = True
    #: Whether the command needs a data connection.
    uses_data: bool = False
    #: Whether REST and RANG apply to the command. They are reset after it.
    restartable: bool = False
    #: Whether the command may read a whole directory or tree. ABOR ends it.
    walks: bool = False
    #: Whether the argument is a secret, which is never logged.
    secret: bool = False
    #: Whether the command changes nothing, and is logged only with `twistd ftpsd --verbose` or if it fails.
    quiet: bool = False
    #: The cost for the command limit of clients without a login. NOOP costs 1.
    cost: int = 1
    #: The lines for FEAT.
    features: Callable[[S], Iterable[str]] | tuple[str, ...] = ()
    #: Is called when the command arrives during a transfer. A Reply is the final reply of the command; after None the
    #: command waits in the queue.
    act_immediately: Callable[[S, str], Reply | None] | None = None

    #: The permissions of which one must hold at each path in the argument; empty if none is needed.
    permissions: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.permission is not None:
            permissions: tuple[str, ...] = (self.permission,)
        else:
            permissions = tuple(each for needed, _ in self.conditional for each in needed)
        object.__setattr__(self, "permissions", permissions)

    def needs(self) -> str:
        """Return the permissions and their conditions as text, for the documents."""
        texts = [self.permission] if self.permission is not None else []
        texts += [f"{_one_of(permissions)} {when}".rstrip() for permissions, when in self.conditional]
        return ", ".join(texts)


def _one_of(permissions: tuple[str, ...]) -> str:
    return "any" if permissions == PERMISSIONS else " or ".join(permissions)


def features(table: Mapping[str, Command[S, object]], session: S) -> list[str]:
    """Return the lines of FEAT in alphabetical order (RFC 2389 section 3)."""
    lines: set[str] = set()
    for row in table.values():
        lines.update(row.features(session) if callable(row.features) else row.features)
    return sorted(lines)


def table(*groups: Iterable[Command[S, Never]]) -> Mapping[str, Command[S, object]]:
    """Return the rows of all groups by verb. Raises ValueError for a verb with two rows."""
    rows: dict[str, Command[S, object]] = {}
    for row in (row for group in groups for row in group):
        if row.verb in rows:
            raise ValueError(f"{row.verb} has two rows")
        rows[row.verb] = cast("Command[S, object]", row)  # `run` is given only what `parse` has returned
    return rows


#: Commands that exist and are not implemented here. They get 502; unknown ones get 500.
NOT_SERVED = frozenset(
    """
    SMNT ADAT MIC CONF ENC SSCN CPSV LPRT LPSV MFCT THMB COMB MLFL MSND MSOM MSAM MRSQ MRCP XCRC XMD5
    XSHA XSHA1 XSHA256 XSHA512 XRSQ XSEM XSEN PRET ESTA ESTP SPSV DSIZ
    """.split()  # noqa: SIM905
)

#: Verbs of other protocols. The first one ends the session: an attacker may have sent a browser or mail server here
#: (ALPACA). The verbs of IMAP follow a tag: see `parsing.imap_tag`.
_PROTOCOLS = {
    "HTTP": "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PRI",
    "SMTP": "HELO EHLO LHLO MAIL RCPT DATA BDAT RSET VRFY EXPN STARTTLS",
    "IMAP": "LOGIN CAPABILITY",
    "POP3": "CAPA APOP STLS UIDL",
}
FOREIGN = {verb: protocol for protocol, verbs in _PROTOCOLS.items() for verb in verbs.split()}
