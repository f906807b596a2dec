"""Command, the row: what a command needs, how its argument is read, what runs.

Everything that the server says of itself is computed from the rows: FEAT, HELP, who may call it and
when, what may be logged, and the conformance table in `docs/conformance.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Never, TypeVar, cast

from ftpsd.protocol.permissions import PERMISSIONS
from ftpsd.protocol.replies import Reply

#: The session. `session` imports this module, so a row does not name the type.
S = TypeVar("S")
#: The value of the argument, which the function of a row takes.
V = TypeVar("V", contravariant=True)

#: The final reply of a command, now or later. What such a coroutine yields is for the event loop only.
Result = Reply | Coroutine[Never, object, Reply]

#: One of these permissions is needed, in this case: ("append",), "for a file that is there".
Condition = tuple[tuple[str, ...], str]


@dataclass(frozen=True, slots=True)
class Command(Generic[S, V]):
    """One command of the protocol. Every promise about a command is a field here."""

    verb: str
    #: Reads the argument: text to value, or a Refusal.
    parse: Callable[[str], object]
    run: Callable[[S, V], Result]
    #: The syntax, as HELP prints it.
    help: str
    #: Where it is specified.
    rfc: str
    #: What the user must be allowed at every path that the argument names.
    permission: str | None = None
    #: What the user must be allowed in some cases: one of the permissions, and when. Where `permission` is None, a path
    #: at which none of them may hold is refused before the command runs.
    conditional: tuple[Condition, ...] = ()
    #: Whether the client must have logged in.
    login: bool = True
    #: Whether it opens a data connection.
    uses_data: bool = False
    #: Whether REST and RANG are meant for it: it uses them up.
    restartable: bool = False
    #: Whether it may go through a directory or a tree, which ABOR ends.
    walks: bool = False
    #: Whether the argument must never be written to a log.
    secret: bool = False
    #: Whether it tells something only: it is logged at the level "debug".
    quiet: bool = False
    #: What it costs a client without a login, in commands as cheap as NOOP.
    cost: int = 1
    #: Lines for FEAT that this row stands for.
    features: Callable[[S], Iterable[str]] | tuple[str, ...] = ()
    #: Runs on arrival while a transfer runs. A Reply is sent at once and ends the matter; with None
    #: the command still gets its turn.
    at_once: Callable[[S, str], Reply | None] | None = None

    @property
    def permissions(self) -> tuple[str, ...]:
        """One of these must hold at every path that the argument names; empty where none is needed."""
        if self.permission is not None:
            return (self.permission,)
        return tuple(each for permissions, _ in self.conditional for each in permissions)

    def needs(self) -> str:
        """Return the permissions and their conditions as a text for people."""
        texts = [self.permission] if self.permission is not None else []
        texts += [f"{_one_of(permissions)} {when}".rstrip() for permissions, when in self.conditional]
        return ", ".join(texts)


def _one_of(permissions: tuple[str, ...]) -> str:
    return "any" if permissions == PERMISSIONS else " or ".join(permissions)


def features(table: Mapping[str, Command[S, object]], session: S) -> list[str]:
    """The lines of FEAT, in alphabetical order (RFC 2389 section 3)."""
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


#: Commands that the RFCs name and that we do not serve: they get 502, what nobody knows gets 500.
NOT_SERVED = frozenset(
    """
    SMNT ADAT MIC CONF ENC SSCN CPSV LPRT LPSV MFCT THMB COMB MLFL MSND MSOM MSAM MRSQ MRCP XCRC XMD5
    XSHA XSHA1 XSHA256 XSHA512 XRSQ XSEM XSEN PRET ESTA ESTP SPSV DSIZ
    """.split()  # noqa: SIM905
)

#: Verbs of other protocols. A browser or a mail server that was led here (ALPACA) must not go on
#: talking: the session ends with the first of them. IMAP's stand behind a tag: see `wire.imap_tag`.
_PROTOCOLS = {
    "HTTP": "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PRI",
    "SMTP": "HELO EHLO LHLO MAIL RCPT DATA BDAT RSET VRFY EXPN STARTTLS",
    "IMAP": "LOGIN CAPABILITY",
    "POP3": "CAPA APOP STLS UIDL",
}
FOREIGN = {verb: protocol for protocol, verbs in _PROTOCOLS.items() for verb in verbs.split()}
