"""Events in JSON, for the link between processes: `encode` and `decode`. The form is a list: name, then fields."""

from __future__ import annotations

from functools import lru_cache

from ftpsd.events.types import Event, SessionEvent, SessionInfo
from ftpsd.system.messages.codec import Codec, Malformed

#: The sessions whose last `SessionInfo` is kept: the next event of the same session needs no other one.
_SESSIONS = 4096

#: The characters of the texts of such a session. A worker that was taken over sends longer ones, to fill the memory.
_LONGEST = 1000


def _kinds(base: type[Event]) -> list[type[Event]]:
    below = [each for kind in base.__subclasses__() for each in [kind, *_kinds(kind)]]
    return [kind for kind in below if kind is not SessionEvent]


_SESSION = Codec(SessionInfo)


@lru_cache(_SESSIONS, typed=True)
def _session(*fields: object) -> SessionInfo:
    return _SESSION.decode([*fields])


def _decode_session(value: object) -> object:
    if type(value) is not list or sum([len(each) for each in value if type(each) is str]) > _LONGEST:
        return _SESSION.decode(value)
    try:
        return _session(*value)
    except TypeError:  # a field is a list or an object, which no session has
        raise Malformed("this is no session") from None


_CODECS: dict[type[Event], Codec[Event]] = {kind: Codec(kind, {SessionInfo: _decode_session}) for kind in _kinds(Event)}

#: All kinds of events, by their names.
KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in _CODECS}


def encode(event: Event) -> list[object]:
    """Return an event in JSON."""
    kind = type(event)
    return [kind.__name__, *_CODECS[kind].encode(event)]


def decode(value: object) -> Event:
    """Return the event that `encode` was given. Raises Malformed."""
    if type(value) is not list or not value or type(value[0]) is not str or value[0] not in KINDS:
        raise Malformed("this kind of event is not known")
    return _CODECS[KINDS[value[0]]].decode(value[1:])
