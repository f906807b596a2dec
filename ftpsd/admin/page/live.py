"""What the page shows as it happens: the history of the last hour, the last events, and streams of both: Live."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from attrs import frozen
from twisted.internet.defer import Deferred

from ftpsd.admin.api.daemon import status_json
from ftpsd.admin.api.problem import Json
from ftpsd.admin.api.routes import encode
from ftpsd.admin.page.stream import Stream
from ftpsd.admin.parts import Parts
from ftpsd.admin.status import StatusReader
from ftpsd.events.record import Record, recorded_kinds
from ftpsd.events.types import Event
from ftpsd.system.periodic import PeriodicTask

#: Seconds between two points of the history, and the points of an hour.
STEP = 5
POINTS = 3600 // STEP

#: Events that are remembered, and failures, which would be lost among many events.
RECENT = 100

#: Seconds between two messages of a stream.
INTERVAL = 1.0

#: Streams at the same time. One more is refused.
MOST_STREAMS = 16

FAILURES = frozenset(
    ("refused", "login_failed", "login_refused", "upload_failed", "download_failed", "ban", "reload_failed")
)

#: Returns the sessions that a browser shows, as JSON.
ListSessions = Callable[[Stream], Awaitable[bytes]]


@frozen
class Point:
    """The load at one moment."""

    time: float
    sessions: float
    #: Bytes per second.
    upload_rate: float
    download_rate: float


class Live:
    """Watches the daemon while the page is served. For the reactor thread."""

    def __init__(self, parts: Parts, status: StatusReader, list_sessions: ListSessions) -> None:
        self._parts = parts
        self._status = status
        self._list_sessions = list_sessions
        self._history: deque[Point] = deque(maxlen=POINTS)
        self._events: deque[Record] = deque(maxlen=RECENT)
        self._failures: deque[Record] = deque(maxlen=RECENT)
        #: The events since the last message, as far as they are remembered.
        self._new: deque[Record] = deque(maxlen=RECENT)
        self._streams: dict[Stream, None] = {}
        self._unsubscribe: list[Callable[[], None]] = []
        self._sampling = PeriodicTask(parts.reactor, "the history of the page", self._sample)
        self._sending = PeriodicTask(parts.reactor, "the live data of the page", self._send)

    def start(self) -> None:
        """Watch from now on."""
        self._unsubscribe = [self._parts.hub.subscribe("page", kind, self._happened) for kind in recorded_kinds()]
        self._sampling.start(STEP)
        self._sending.start(INTERVAL)

    def stop(self) -> None:
        """Watch no longer. The streams end with their connections."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe = []
        self._sampling.stop()
        self._sending.stop()

    # --- what has happened -------------------------------------------------------------------------

    def history(self) -> Json:
        """Return the load of the last hour, one list for each figure."""
        points = list(self._history)
        return {
            "time": [round(each.time, 1) for each in points],
            "sessions": [each.sessions for each in points],
            "upload_rate": [round(each.upload_rate, 1) for each in points],
            "download_rate": [round(each.download_rate, 1) for each in points],
        }

    def recent(self) -> Json:
        """Return the last events and the last failures, the newest one last."""
        return {"events": list(self._events), "failures": list(self._failures)}

    def _happened(self, event: Event) -> None:
        record = self._parts.recorder.record(event)
        if record is None:
            return
        self._events.append(record)
        if record["event"] in FAILURES:
            self._failures.append(record)
        if self._streams:
            self._new.append(record)

    def _sample(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._take_sample())

    async def _take_sample(self) -> None:
        status = await self._status.refreshed()
        transfers = status.transfers
        point = Point(self._parts.now(), status.sessions.used, transfers.upload_rate, transfers.download_rate)
        self._history.append(point)

    # --- streams -----------------------------------------------------------------------------------

    def add(self, stream: Stream) -> bool:
        """Send live data to a browser until its connection ends. Return False if there are too many."""
        if len(self._streams) >= MOST_STREAMS:
            return False
        self._streams[stream] = None
        stream.start(lambda: self._streams.pop(stream, None))
        return True

    def _send(self) -> Deferred[None] | None:
        return Deferred.fromCoroutine(self._send_to_all()) if self._streams else None

    async def _send_to_all(self) -> None:
        new, self._new = list(self._new), deque(maxlen=RECENT)
        status = encode(status_json(await self._status.refreshed()))
        events: list[tuple[str, bytes]] = [("status", status)]
        if new:
            events.append(("events", encode(new)))
        lists: dict[str, bytes] = {}
        for stream in list(self._streams):
            if not stream.is_ready:
                continue
            if stream.query not in lists:
                lists[stream.query] = await self._list_sessions(stream)
            stream.send([*events, ("sessions", lists[stream.query])])
