"""The log: a listener that writes a line for each event that an administrator wants to read."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from twisted.logger import Logger, LogLevel

from ftpsd import __version__
from ftpsd.events.hub import Hub
from ftpsd.events.log_budget import LogBudget
from ftpsd.events.log_format import LONGEST_SENTENCE
from ftpsd.events.types import (
    AdministrativeAct,
    BanAdded,
    BanEnded,
    Banned,
    CommandAnswered,
    CommandsSlowed,
    ConfigurationLoaded,
    ConfigurationRefused,
    DaemonStarted,
    DataConnectionRefused,
    LoggedIn,
    LoginCheckFailed,
    LoginFailed,
    LoginRefused,
    PlainTextAfterAuth,
    QuietCommandAnswered,
    SessionClosed,
    SessionDismissed,
    SessionEvent,
    SessionInfo,
    SessionOpened,
    SessionRejected,
    TlsFailed,
    WrongProtocol,
    ban_name,
)
from ftpsd.protocol.addresses import network, plain_address
from ftpsd.protocol.printable import printable

log = Logger(namespace="ftpsd")

E = TypeVar("E", bound=SessionEvent)

#: The name of an event in JSON, its text, and further fields.
Line = tuple[str, str, dict[str, object]]


class Log:
    """Writes events to Twisted's log. `verbose`: commands that only ask something are written, too."""

    def __init__(self, hub: Hub, budget: LogBudget, verbose: bool = False) -> None:
        self._budget = budget
        hub.subscribe("log", CommandAnswered, self._command)
        if verbose:
            hub.subscribe("log", QuietCommandAnswered, self._command)
        self._subscribe(hub, SessionOpened, _opened)
        self._subscribe(hub, SessionRejected, _rejected)
        self._subscribe(hub, SessionDismissed, _dismissed)
        self._subscribe(hub, SessionClosed, _closed)
        self._subscribe(hub, TlsFailed, _tls_failed)
        self._subscribe(hub, WrongProtocol, _wrong_protocol)
        self._subscribe(hub, PlainTextAfterAuth, _plain_text_after_auth)
        self._subscribe(hub, CommandsSlowed, _slowed)
        self._subscribe(hub, LoginFailed, _login_failed, always=True)
        self._subscribe(hub, LoginRefused, _login_refused)
        self._subscribe(hub, LoginCheckFailed, _login_check_failed)
        self._subscribe(hub, Banned, _banned, always=True)
        hub.subscribe("log", LoggedIn, _logged_in)
        hub.subscribe("log", DataConnectionRefused, self._data_connection_refused)
        hub.subscribe("log", BanAdded, _ban_added)
        hub.subscribe("log", BanEnded, _ban_ended)
        hub.subscribe("log", AdministrativeAct, _administrative_act)
        hub.subscribe("log", DaemonStarted, _started)
        hub.subscribe("log", ConfigurationLoaded, _configuration_loaded)
        hub.subscribe("log", ConfigurationRefused, _configuration_refused)

    def _command(self, event: CommandAnswered) -> None:
        session = event.session
        if not self._admits(event):
            return
        argument = printable(event.argument)
        text = printable(event.text, LONGEST_SENTENCE)
        line = f"{session.label} {event.command} {argument}".rstrip(" ")
        _emit(
            session,
            f"{line}: {event.code} {text} [{event.seconds:.3f} s]",
            event="command",
            command=event.command,
            argument=argument,
            code=event.code,
            text=text,
            seconds=event.seconds,
            bytes=event.bytes,
        )

    def _admits(self, event: CommandAnswered) -> bool:
        """Return whether the budget has a line for a command. Those that changed or transferred files are free."""
        session = event.session
        if not session.user:
            return not session.is_check and self._budget.admits_stranger(session.network)
        if event.changed and event.code < 400:
            return True
        return self._budget.admits_user(session.user)

    def _subscribe(self, hub: Hub, kind: type[E], line: Callable[[E], Line], always: bool = False) -> None:
        """Write a line for each event of a kind. `always`: fail2ban has to see each, so no budget leaves it out."""

        def write(event: E) -> None:
            session = event.session
            shown = not session.is_check and self._budget.admits_stranger(session.network)
            if session.user or always or shown:
                _write(session, *line(event))

        hub.subscribe("log", kind, write)

    def _data_connection_refused(self, event: DataConnectionRefused) -> None:
        if self._budget.admits_stranger(network(plain_address(event.peer))):
            log.warn(
                "{label} a data connection from {peer} was refused: it is not from the client's address",
                label=event.session.label,
                peer=event.peer,
            )


def _write(session: SessionInfo, event: str, text: str, fields: dict[str, object]) -> None:
    text = printable(text, LONGEST_SENTENCE)
    _emit(session, f"{session.label} {text}", event=event, text=text, **fields)


def _emit(session: SessionInfo, line: str, **fields: object) -> None:
    """Log a line about a session. It is complete, so that `LineFormat` need not format it.

    `Logger.info` sorts the names of all levels first, which takes 7 µs for each line.
    """
    event = {
        "log_logger": log,
        "log_level": LogLevel.info,
        "log_namespace": log.namespace,
        "log_source": None,
        "log_format": "{line}",
        "log_time": time.time(),
        "line": line,
        "log_system": "ftpsd",
        "session": session.number,
        "user": session.user or "-",
        "address": session.address,
        **fields,
    }
    log.observer(event)  # type: ignore[call-arg,misc]  # the interface has no self


def _ban_added(event: BanAdded) -> None:
    length: dict[str, object] = {} if event.seconds is None else {"seconds": event.seconds}
    _log_ban(
        "was added" if event.seconds is None else f"was added, for {event.seconds:.0f} seconds", event, "banned", length
    )


def _ban_ended(event: BanEnded) -> None:
    ended = "was lifted" if event.reason == "lifted" else "has expired"
    _log_ban(ended, event, "unbanned", {"reason": event.reason})


def _log_ban(what: str, event: BanAdded | BanEnded, name: str, fields: dict[str, object]) -> None:
    """Log what has become of a ban; the line is of no session."""
    log.info(
        "the ban of {ban} {what}",
        ban=printable(ban_name(event.kind, event.subject)),
        what=what,
        event=name,
        kind=event.kind,
        subject=printable(event.subject),
        **fields,
    )


def _administrative_act(event: AdministrativeAct) -> None:
    action = f"{event.action} {event.subject}".rstrip()
    log.info("{administrator}: {action}", administrator=printable(event.administrator), action=printable(action))


def _logged_in(event: LoggedIn) -> None:
    if event.fingerprint:
        shown = {"certificate": printable(event.certificate), "fingerprint": event.fingerprint}
        _write(
            event.session,
            "certificate",
            "client certificate: {certificate}, SHA-256 {fingerprint}".format(**shown),
            {**shown},
        )
    if event.rates:
        _write(event.session, "rates", f"limited to {event.rates}", {"rates": event.rates})


def _started(_: DaemonStarted) -> None:
    log.info("ftpsd {version} has started", version=__version__)


def _configuration_loaded(_: ConfigurationLoaded) -> None:
    log.info("reloaded: new sessions get the new configuration")


def _configuration_refused(event: ConfigurationRefused) -> None:
    for fault in event.faults:
        log.error("not reloaded: {fault}", fault=fault)
    log.error("the old configuration remains in effect")


# --- one line for each kind of event ----------------------------------------------------------------


def _opened(_: SessionOpened) -> Line:
    return "connected", "connected", {}


def _rejected(event: SessionRejected) -> Line:
    return "refused", event.text, {}


def _dismissed(event: SessionDismissed) -> Line:
    return "dismissed", f"{event.code} {event.text}", {}


def _closed(_: SessionClosed) -> Line:
    return "disconnected", "disconnected", {}


def _tls_failed(event: TlsFailed) -> Line:
    return "tls_failed", f"TLS failed: {event.error}", {}


def _wrong_protocol(_: WrongProtocol) -> Line:
    return "wrong_protocol", "TLS on a port for explicit TLS: use one with tls: implicit", {}


def _plain_text_after_auth(_: PlainTextAfterAuth) -> Line:
    return "injection", "plain text after AUTH: the connection is closed", {}


def _slowed(event: CommandsSlowed) -> Line:
    return "slowed", f"more than {event.rate} commands per second: further ones are delayed", {}


def _login_failed(event: LoginFailed) -> Line:
    name = printable(event.name)
    return "login_failed", f"login failed for {name}", {"name": name}


def _login_refused(event: LoginRefused) -> Line:
    name = printable(event.name)
    # A client whose password may be wrong is told “Login incorrect.” only.
    why = "" if event.reason in event.text.lower() else f" ({event.reason})"
    return "login_refused", f"login of {name} refused: {event.text}{why}", {"name": name, "reason": event.reason}


def _login_check_failed(event: LoginCheckFailed) -> Line:
    return "checker_failed", f"the login could not be checked: {event.error}", {}


def _banned(event: Banned) -> Line:
    text = f"{event.text} [{ban_name(event.kind, event.subject)}]"
    return "banned", text, {"kind": event.kind, "subject": event.subject, "seconds": event.seconds}
