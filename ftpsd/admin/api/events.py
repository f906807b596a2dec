"""The events of the daemon as Server-Sent Events: EventStreams.

A client that reads too slowly is cut off, with a comment that says so: it would otherwise get events with gaps that it
cannot see.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import get_args

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from ftpsd.admin.api import schemas
from ftpsd.admin.api.arguments import TEXT, Parameter
from ftpsd.admin.api.problem import Problem
from ftpsd.admin.api.routes import Call, Route, Stream
from ftpsd.admin.parts import Parts
from ftpsd.config.sections.events import EventName
from ftpsd.events.record import Record, recorded_kinds, to_json
from ftpsd.events.types import Event
from ftpsd.system.periodic import PeriodicTask
from ftpsd.web.server import BoundedRequest

#: The names of all events.
EVENTS: tuple[str, ...] = get_args(EventName)

#: Streams at the same time. The other connections of the socket are for short requests.
MOST = 32

#: Events that wait for one client.
CAPACITY = 1000

#: Seconds between two comments that show that the stream lives.
HEARTBEAT = 15.0

#: Seconds for a client that was too slow to read why it is cut off.
PATIENCE = 5.0


class EventStreams:
    """All streams of the API."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._streams: set[EventStream] = set()

    def routes(self) -> list[Route]:
        """Return the route of this subject."""
        names = Parameter(
            "event",
            {"type": "array", "items": {"enum": EVENTS}, "minItems": 1, "uniqueItems": True},
            "Only events with these names, separated by commas.",
        )
        user = Parameter("user", TEXT, "Only events of this user.")
        summary = "Follow the events as Server-Sent Events; docs/events.md describes the data"
        return [
            Route(
                "GET",
                "/v1/events",
                self._follow,
                summary,
                schemas.STRING,
                parameters=(names, user),
                is_stream=True,
                problems=[503],
            )
        ]

    async def _follow(self, call: Call) -> Stream:
        names, user = call.arguments.choices("event", EVENTS), call.arguments.text("user")
        if call.request.is_gone:
            return Stream()
        if len(self._streams) >= MOST:
            raise Problem(503, f"There are {MOST} event streams already. Close one, and try again.")
        stream = EventStream(self._parts, call.request, names, user)
        self._streams.add(stream)
        call.request.notifyFinish().addErrback(lambda _: None).addBoth(lambda _: self._streams.discard(stream))
        return Stream()

    def close(self) -> None:
        """End all streams: the daemon stops."""
        for stream in list(self._streams):
            stream.finish()


@implementer(IPushProducer)
class EventStream:
    """One stream.

    flowing  the client reads: each event is written immediately
    paused   the client does not read: events wait, up to CAPACITY, and for two heartbeats at most
    ended    the client has gone or was too slow, or the daemon stops
    """

    def __init__(self, parts: Parts, request: BoundedRequest, names: Collection[str] | None, user: str | None) -> None:
        self._parts = parts
        self._request = request
        self._names = names
        self._user = user
        self._waiting: deque[Record] = deque()
        self._paused = False
        #: Whether the client has not read since the last heartbeat.
        self._stuck = False
        self._heartbeat = PeriodicTask(parts.reactor, "a heartbeat of events", self._beat)
        self._subscriptions: list[Callable[[], None]] = []
        self._begin()

    def _begin(self) -> None:
        request = self._request
        request.channel.set_deadline(None)
        request.end_stream = self.finish
        request.notifyFinish().addBoth(self._end)
        request.setHeader("content-type", "text/event-stream")
        request.setHeader("cache-control", "no-store")
        request.registerProducer(self, True)
        self._write(": the events of ftpsd\n\n")
        self._subscriptions = [self._parts.hub.subscribe("events", kind, self._put) for kind in recorded_kinds()]
        self._heartbeat.start(HEARTBEAT, now=False)

    # --- events ----------------------------------------------------------------------------------

    def _put(self, event: Event) -> None:
        record = self._parts.recorder.record(event)
        if record is None or not self._is_wanted(record):
            return
        self._waiting.append(record)
        if not self._paused:
            self._write_waiting()
        elif len(self._waiting) > CAPACITY:
            self._cut_off()

    def _is_wanted(self, record: Record) -> bool:
        return (self._names is None or record["event"] in self._names) and (
            self._user is None or record.get("user") == self._user
        )

    def _write_waiting(self) -> None:
        while self._waiting and not self._paused:
            record = self._waiting.popleft()
            self._write(f"event: {record['event']}\nid: {record['id']}\ndata: {to_json(record)}\n\n")

    def _write(self, text: str) -> None:
        self._request.write(text.encode("utf-8", "replace"))

    def _beat(self) -> None:
        if not self._paused:
            self._write(": \n\n")
        elif self._stuck:
            self._cut_off()
        else:
            self._stuck = True

    def _cut_off(self) -> None:
        self._write(f": too slow: {len(self._waiting)} events were not sent\n\n")
        self.finish()

    def finish(self) -> None:
        """End the stream, as soon as the client has read what was written, and within PATIENCE seconds."""
        self._end(None)
        self._request.channel.set_deadline(PATIENCE)
        self._request.unregisterProducer()
        self._request.finish()

    def _end(self, _: object) -> None:
        """Let go of everything. May be called any number of times."""
        self._heartbeat.stop()
        for unsubscribe in self._subscriptions:
            unsubscribe()
        self._subscriptions = []
        self._waiting.clear()

    # --- IPushProducer -----------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """The client does not read."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The client reads again."""
        self._paused = self._stuck = False
        self._write_waiting()

    def stopProducing(self) -> None:
        """The connection is lost."""
        self._end(None)
