"""The events of one session. Secrets are hidden here, before an event is made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ftpsd.events.hub import Hub
from ftpsd.events.record import CHANGES
from ftpsd.events.tally import OTHER
from ftpsd.events.types import (
    CommandAnswered,
    DataConnectionRefused,
    Event,
    FileChanged,
    LoggedIn,
    LoggedOut,
    QuietCommandAnswered,
    SessionClosed,
    SessionInfo,
    SessionOpened,
    TransferEnded,
    TransferStarted,
)
from ftpsd.protocol.addresses import Address, network
from ftpsd.protocol.interfaces import Change, TransferKind
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Reply
from ftpsd.protocol.session import Row

T = TypeVar("T")

#: What stands for a text that is not shown.
HIDDEN = "********"

#: Replies that say that the argument was not understood. It may be a password with a typing error around it.
NOT_UNDERSTOOD = {("HELP", 502), ("SITE", 501)}


def info(number: int, client: Address, is_check: bool = False) -> SessionInfo:
    """Return what identifies a session before its login."""
    # An address with a zone would be no address to fail2ban.
    return SessionInfo(number, str(client).partition("%")[0], network(client), is_check=is_check)


class SessionEvents:
    """Publishes what happens in one session. The session's part of `interfaces.Events` is here, too.

    `is_known` says whether a user's name may be shown.
    """

    __slots__ = ("_changed", "_hub", "_is_known", "_opened", "_transfer", "session")

    def __init__(self, hub: Hub, session: SessionInfo, is_known: Callable[[str], bool]) -> None:
        self._hub = hub
        self._is_known = is_known
        self._opened = hub.now()
        self._transfer: tuple[TransferKind, VirtualPath, int, bool, float] | None = None
        #: Whether the running command has changed a file or directory.
        self._changed = False
        #: Which session it is, with the user if one is logged in.
        self.session = session

    def publish(self, event: Event) -> None:
        """Publish an event that has no method here."""
        self._hub.publish(event)

    def visible_name(self, user: str) -> str:
        """Return a user's name, or asterisks if no user has it: it may be a password in the wrong place."""
        return user if self._is_known(user) else HIDDEN

    # --- the life of a session ---------------------------------------------------------------------

    def opened(self, implicit_tls: bool) -> None:
        """The client has connected."""
        self._hub.publish(SessionOpened(self.session, implicit_tls))

    def closed(self) -> None:
        """The control connection is closed."""
        self._hub.durable_ids.forget(self.session.number)
        self._hub.publish(SessionClosed(self.session, self._hub.now() - self._opened))

    def logged_in(self, user: str, rates: str, certificate: str = "", fingerprint: str = "") -> None:
        """A user has logged in, with limits of bandwidth as `rates` states them, and a certificate if it has one."""
        self.session = self.session.with_user(user)
        self._hub.publish(LoggedIn(self.session, rates, certificate, fingerprint))

    def logged_out(self) -> None:
        """The user has logged out, and the session continues."""
        self._hub.publish(LoggedOut(self.session))
        self.session = self.session.with_user("")

    # --- commands ----------------------------------------------------------------------------------

    def command_answered(
        self, row: Row | None, verb: str, argument: str, reply: Reply, seconds: float, moved: int | None
    ) -> None:
        """A command has had its final reply. `moved` is the number of bytes of its data connection, if it uses one."""
        changed, self._changed = self._changed, False
        if self._transfer is not None:
            changed = changed or self._transfer[0] != "listing"
            self._end_transfer(reply, moved or 0)
        if self._hub.tally is not None:
            self._hub.tally.command(OTHER if row is None else row.verb, reply.code)
        quiet = row is not None and row.quiet and reply.code < 400
        kind = QuietCommandAnswered if quiet else CommandAnswered
        if kind not in self._hub.wanted:
            return
        if argument and self._is_secret(row, verb, argument, reply.code):
            argument = HIDDEN
        self._hub.publish(kind(self.session, verb, argument, reply.code, reply.text, seconds, moved, changed))

    def answered_immediately(self, row: Row, reply: Reply) -> None:
        """A command has had its reply while a transfer runs."""
        if self._hub.tally is not None:
            self._hub.tally.command(row.verb, reply.code)

    def _is_secret(self, row: Row | None, verb: str, argument: str, code: int) -> bool:
        if verb == "USER":
            return not self._is_known(argument)
        if row is None or row.secret or (verb, code) in NOT_UNDERSTOOD:
            return True
        return not self.session.user and code in (501, 530)

    # --- what commands and data connections report (`interfaces.Events`) -----------------------------

    def transfer_started(self, kind: TransferKind, path: VirtualPath, offset: int = 0, ascii: bool = False) -> None:
        """What is to be transferred was opened."""
        self._transfer = kind, path, offset, ascii, self._hub.now()
        if TransferStarted in self._hub.wanted:
            self._hub.publish(TransferStarted(self.session, kind, str(path), offset))

    def _end_transfer(self, reply: Reply, moved: int) -> None:
        assert self._transfer is not None
        kind, path, offset, ascii, started = self._transfer
        self._transfer = None
        if TransferEnded in self._hub.wanted:
            seconds = self._hub.now() - started
            is_made = kind in ("upload", "append") and reply.code < 400
            ids, number, shown = self._hub.durable_ids, self.session.number, str(path)
            identity = ids.take(number, "upload", shown) if is_made else ""
            self._hub.publish(
                TransferEnded(
                    self.session,
                    kind,
                    shown,
                    offset,
                    ascii,
                    moved,
                    seconds,
                    reply.code,
                    reply.lines[-1],
                    identity,
                )
            )

    def file_changed(self, change: Change, path: VirtualPath, new_path: VirtualPath | None = None) -> None:
        """A command has changed a file or directory."""
        self._changed = True
        if FileChanged in self._hub.wanted:
            shown, target = str(path), None if new_path is None else str(new_path)
            paths = shown if target is None else f"{shown}\0{target}"
            identity = self._hub.durable_ids.take(self.session.number, CHANGES[change], paths)
            self._hub.publish(FileChanged(self.session, change, shown, target, identity))

    def data_connection_refused(self, peer: Address) -> None:
        """A host that is not the client has connected to the passive port."""
        self._hub.publish(DataConnectionRefused(self.session, str(peer)))

    # --- what is only counted ------------------------------------------------------------------------

    def login_banned(self) -> None:
        """A login was refused because of a ban."""
        if self._hub.tally is not None:
            self._hub.tally.banned_logins += 1

    def no_data_connection(self, reason: str) -> None:
        """A command was refused since there is no data connection that it can use."""
        if self._hub.tally is not None:
            self._hub.tally.data_refused[reason] += 1

    def tls_established(self, version: str, resumed: bool) -> None:
        """A TLS handshake of the control connection is complete."""
        if self._hub.tally is not None:
            self._hub.tally.handshake("control", version, resumed)

    def counted(self, check: Callable[[T], None], facts: Callable[[T], tuple[str, bool]]) -> Callable[[T], None]:
        """Return a check of a data connection's handshake that counts it. `facts` returns its version, and whether it
        resumed a session."""
        tally = self._hub.tally
        return check if tally is None else partial(tally.check_data, check, facts)
