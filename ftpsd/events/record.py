"""The JSON form of an event, the same for the audit file, Server-Sent Events, webhooks and `ftpsd events`.

A record is a flat dict. docs/events.md lists its names and fields. It has no secret, since no event has one.
"""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar, cast

from ftpsd.events.durable_ids import DurableIds
from ftpsd.events.types import (
    AdministrativeAct,
    BanAdded,
    BanEnded,
    Banned,
    ConfigurationLoaded,
    ConfigurationRefused,
    DaemonStarted,
    DaemonStopping,
    Event,
    FileChanged,
    LoggedIn,
    LoggedOut,
    LoginCheckFailed,
    LoginFailed,
    LoginRefused,
    SessionClosed,
    SessionDismissed,
    SessionEvent,
    SessionInfo,
    SessionOpened,
    SessionRejected,
    TransferEnded,
)
from ftpsd.protocol.interfaces import Change, TransferKind
from ftpsd.system.reactor import Now

#: What a field of a record can be.
Value: TypeAlias = str | int | float | bool | list[str]
Record: TypeAlias = dict[str, Value]

#: Returns a record as JSON, in one line. `json.dumps` would make an encoder for each record.
to_json: Callable[[Record], str] = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode

#: A line of a file, without its end, or what returns it: in a worker thread, so that the reactor does not wait for it.
Line: TypeAlias = str | Callable[[], str]

#: The name of an event, and the fields of its record besides those that every record has.
Parts = tuple[str, Record]

E = TypeVar("E", bound=Event)

#: The names of the records of changes.
CHANGES: dict[Change, str] = {
    "deleted": "delete",
    "renamed": "rename",
    "directory_made": "mkdir",
    "directory_removed": "rmdir",
    "tree_removed": "rmdir",
    "time_changed": "mtime",
    "mode_changed": "chmod",
}
_TRANSFERS: dict[TransferKind, str] = {"download": "download", "upload": "upload", "append": "upload"}


def record(event: Event, when: float, identity: str) -> Record | None:
    """Return the record of an event that was published at `when` (POSIX time), or None if the kind has no record."""
    row = _ROWS.get(type(event))
    parts = row.make(event) if row is not None else None
    if parts is None:
        return None
    name, fields = parts
    result: Record = {"id": identity, "event": name, "time": iso_time(when)}
    if isinstance(event, SessionEvent):
        _add_session(result, event.session)
    result.update(fields)
    return result


def upload_record(
    session: SessionInfo, path: str, received: int, seconds: float, offset: int, append: bool, identity: str
) -> Record:
    """Return the record of an upload that is about to get its name: as `record`, without an event."""
    result: Record = {"id": identity, "event": "upload", "time": iso_time(time.time())}
    _add_session(result, session)
    result["path"] = path if path.isascii() else valid_text(path)
    result["bytes"], result["seconds"], result["offset"] = received, round(seconds, 3), offset
    result["append"] = append
    return result


def _add_session(result: Record, session: SessionInfo) -> None:
    result["session"], result["address"] = session.number, session.address
    if session.user:
        result["user"] = session.user


def recorded_kinds() -> Mapping[type[Event], frozenset[str]]:
    """Return the kinds of events that have a record, each with the names that its record may have."""
    return {kind: row.names for kind, row in _ROWS.items()}


def iso_time(when: float) -> str:
    """Return a POSIX time in ISO 8601, in UTC with milliseconds: 2026-11-26T02:17:51.043Z."""
    milliseconds = int(when * 1000)
    second, text = _iso_second
    if milliseconds // 1000 != second:
        second = milliseconds // 1000
        text = datetime.fromtimestamp(second, UTC).isoformat(timespec="seconds")[:-6]
        _remember(second, text)
    return f"{text}.{milliseconds % 1000:03d}Z"


#: The last second that was written, and its text: a busy daemon writes many events in each.
_iso_second: tuple[int, str] = (0, "1970-01-01T00:00:00")


def _remember(second: int, text: str) -> None:
    global _iso_second
    _iso_second = second, text


def valid_text(text: str) -> str:
    """Return a text that every JSON parser accepts: a byte of a file's name that is not UTF-8 is written as \\xff."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class Recorder:
    """Makes the records of one daemon. For the reactor thread, within the call of a listener.

    All listeners that ask for the record of the same event get the same one: the one that the journal has, if this
    process has written it there; else with the id that it has there. No other event has this id, even one of an earlier
    run of the daemon.
    """

    def __init__(self, now: Now, durable: DurableIds) -> None:
        #: Returns the POSIX time.
        self.now = now
        self._durable = durable
        self._run = f"{int(now() * 1000):011x}{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)
        self._last: tuple[Event | None, Record | None] = (None, None)

    def record(self, event: Event) -> Record | None:
        """Return the record of an event that is being published, or None if its kind has no record."""
        last, result = self._last
        if event is not last:
            identity = event.identity if isinstance(event, _WITH_IDENTITY) else ""
            text = self._written(event, identity) if identity else ""
            if text:
                result = json.loads(text)
            else:
                result = record(event, self.now(), identity or f"{self._run}-{next(self._numbers)}")
            self._last = event, result
        return result

    def line(self, event: Event) -> Line | None:
        """Return the record of an event as JSON, or None if its kind has no record."""
        if isinstance(event, _WITH_IDENTITY) and event.identity:
            text = self._written(event, event.identity)
            if text:
                return text
        made = self.record(event)
        return None if made is None else partial(to_json, made)

    def _written(self, event: Event, known: str) -> str:
        """Return the record that the journal has of an event with this id, as JSON, or an empty text."""
        if type(event) is TransferEnded and event.ascii:
            return ""  # the journal counts the bytes of the file, the event those that were sent
        identity, text = self._durable.taken
        return text if identity == known else ""


_WITH_IDENTITY = TransferEnded, FileChanged


# --- one function for each kind of event --------------------------------------------------------------


def _opened(event: SessionOpened) -> Parts:
    return "connect", {"tls": "implicit" if event.implicit_tls else "explicit"}


def _rejected(event: SessionRejected) -> Parts:
    return "refused", {"text": event.text}


def _dismissed(event: SessionDismissed) -> Parts:
    return "kick", {"code": event.code, "text": valid_text(event.text)}


def _closed(event: SessionClosed) -> Parts:
    return "disconnect", {"seconds": _seconds(event.seconds)}


def _logged_in(event: LoggedIn) -> Parts:
    if not event.fingerprint:
        return "login", {}
    return "login", {"certificate": valid_text(event.certificate), "fingerprint": event.fingerprint}


def _logged_out(_: LoggedOut) -> Parts:
    return "logout", {}


def _login_failed(event: LoginFailed) -> Parts:
    return "login_failed", {"user": valid_text(event.name)}


def _login_refused(event: LoginRefused) -> Parts:
    return "login_refused", {"user": valid_text(event.name), "reason": event.reason, "text": event.text}


def _login_check_failed(event: LoginCheckFailed) -> Parts:
    return "login_refused", {"reason": "error", "text": valid_text(event.error)}


def _banned(event: Banned) -> Parts:
    return "ban", {"kind": event.kind, "subject": valid_text(event.subject), "seconds": event.seconds}


def _ban_added(event: BanAdded) -> Parts:
    length: Record = {} if event.seconds is None else {"seconds": event.seconds}
    return "ban", {"kind": event.kind, "subject": valid_text(event.subject), **length}


def _ban_ended(event: BanEnded) -> Parts:
    return "unban", {"kind": event.kind, "subject": valid_text(event.subject), "reason": event.reason}


def _transfer_ended(event: TransferEnded) -> Parts | None:
    name = _TRANSFERS.get(event.kind)
    if name is None:
        return None
    fields: Record = {"path": valid_text(event.path), "bytes": event.bytes, "seconds": _seconds(event.seconds)}
    fields["offset"] = event.offset
    if name == "upload":
        fields["append"] = event.kind == "append"
    if event.complete:
        return name, fields
    return f"{name}_failed", {**fields, "code": event.code, "text": valid_text(event.text)}


def _file_changed(event: FileChanged) -> Parts:
    fields: Record = {"path": valid_text(event.path)}
    if event.new_path is not None:
        fields["new_path"] = valid_text(event.new_path)
    if event.change in ("directory_removed", "tree_removed"):
        fields["recursive"] = event.change == "tree_removed"
    return CHANGES[event.change], fields


def _started(_: DaemonStarted) -> Parts:
    return "start", {}


def _stopping(_: DaemonStopping) -> Parts:
    return "stop", {}


def _loaded(_: ConfigurationLoaded) -> Parts:
    return "reload", {}


def _refused(event: ConfigurationRefused) -> Parts:
    return "reload_failed", {"faults": [valid_text(each) for each in event.faults]}


def _administrative_act(event: AdministrativeAct) -> Parts:
    return "admin", {"action": event.action, "subject": valid_text(event.subject), "administrator": event.administrator}


def _seconds(seconds: float) -> float:
    return round(seconds, 3)


class _Row(NamedTuple):
    """How events of one kind become records."""

    names: frozenset[str]
    make: Callable[[Event], Parts | None]


_ROWS: dict[type[Event], _Row] = {}


def _add(kind: type[E], make: Callable[[E], Parts | None], *names: str) -> None:
    _ROWS[kind] = _Row(frozenset(names), cast(Callable[[Event], Parts | None], make))


_add(SessionOpened, _opened, "connect")
_add(SessionRejected, _rejected, "refused")
_add(SessionDismissed, _dismissed, "kick")
_add(SessionClosed, _closed, "disconnect")
_add(LoggedIn, _logged_in, "login")
_add(LoggedOut, _logged_out, "logout")
_add(LoginFailed, _login_failed, "login_failed")
_add(LoginRefused, _login_refused, "login_refused")
_add(LoginCheckFailed, _login_check_failed, "login_refused")
_add(Banned, _banned, "ban")
_add(BanAdded, _ban_added, "ban")
_add(BanEnded, _ban_ended, "unban")
_add(TransferEnded, _transfer_ended, *(f"{name}{end}" for name in _TRANSFERS.values() for end in ("", "_failed")))
_add(FileChanged, _file_changed, *CHANGES.values())
_add(DaemonStarted, _started, "start")
_add(DaemonStopping, _stopping, "stop")
_add(ConfigurationLoaded, _loaded, "reload")
_add(ConfigurationRefused, _refused, "reload_failed")
_add(AdministrativeAct, _administrative_act, "admin")
