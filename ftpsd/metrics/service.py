"""Serve /metrics, /live and /ready while the configuration has the section `metrics`: MetricsService."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, cast

from twisted.internet import tcp
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.web.http import Request

from ftpsd.admin.health import Health
from ftpsd.admin.parts import Parts
from ftpsd.admin.status import StatusReader
from ftpsd.config.disk_watch import in_own_thread
from ftpsd.config.faults import Fault, InvalidConfiguration
from ftpsd.config.settings import MetricsSettings
from ftpsd.control.incoming.listeners import open_beside
from ftpsd.metrics.counters import Counters
from ftpsd.metrics.reading import Reading, read
from ftpsd.outbox.place import journal_directory
from ftpsd.system.reactor import ListeningPort
from ftpsd.system.twisted_private import listen_on
from ftpsd.web.server import Answer, Handler, HttpServer, pages

log = Logger(namespace="ftpsd")

#: Connections that the kernel keeps until they are accepted.
BACKLOG = 16

#: The formats of metrics, as the header Accept names them.
TEXT = "text/plain; version=0.0.4"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class MetricsService:
    """The listener for metrics and health checks, and the counters. `path` is that of the configuration, for faults."""

    def __init__(self, path: str, parts: Parts, status: StatusReader) -> None:
        self._path = path
        self._parts = parts
        self._status = status
        self._counters = Counters(parts.hub)
        self._health = Health(parts)
        handlers: dict[bytes, Handler] = {b"/metrics": self._metrics, b"/live": self._live, b"/ready": self._ready}
        self._server = HttpServer(parts.reactor, pages(handlers))
        #: The listener, and the settings that it was opened for.
        self._port: ListeningPort | None = None
        self._place: tuple[str, int] | None = None
        self._new: ListeningPort | None = None
        #: Makes the text of the metrics. Imported with prometheus_client when the section is there.
        self._exposition: Callable[[Reading, str], tuple[bytes, str]]

    # --- the listener ----------------------------------------------------------------------------

    @contextmanager
    def opening(self, settings: MetricsSettings | None) -> Iterator[None]:
        """Open the listener unless it is open; close it again if the context ends with an exception.

        The old listener stays open until `serve`. Raises InvalidConfiguration if the new one cannot be opened.
        """
        if settings is not None and (settings.address, settings.port) != self._place:
            self._new = self._open(settings.address, settings.port)
        try:
            yield
        except BaseException:
            if self._new is not None:
                self._new.stopListening()
                self._new = None
            raise

    def serve(self, settings: MetricsSettings | None) -> None:
        """Serve at the listener that was opened, or nowhere, and close the old one."""
        place = None if settings is None else (settings.address, settings.port)
        if place != self._place:
            self._close_port()
            self._place = place
        if settings is None:
            self._counters.stop()
            return
        from ftpsd.metrics.collector import exposition

        self._exposition = exposition
        self._counters.by_user = settings.users
        self._counters.start()
        self._status.start()
        if self._new is not None:
            self._port, self._new = self._new, None
            host = self._port.getHost()
            name = f"[{host.host}]" if ":" in host.host else host.host
            log.info("serving metrics at http://{name}:{port}/metrics", name=name, port=host.port)

    def close(self) -> Deferred[object]:
        """Close the listener and all connections."""
        self._counters.stop()
        closing = self._close_port()
        self._server.close()
        return closing

    def _close_port(self) -> Deferred[object]:
        port, self._port = self._port, None
        return succeed(None) if port is None else maybeDeferred(port.stopListening)

    def _open(self, address: str, number: int) -> ListeningPort:
        reactor, old, server = self._parts.reactor, self._port, cast(Factory, self._server)
        try:
            if isinstance(old, tcp.Port) and self._place is not None and self._place[1] == number:
                with open_beside(old.socket, address, number, BACKLOG) as listener:
                    return listen_on(tcp.Port, reactor, listener.fileno(), listener.family, server)
            port: ListeningPort = tcp.Port(number, cast(IProtocolFactory, server), BACKLOG, address, reactor)
            port.startListening()
            return port
        except CannotListenError as error:
            text = f"cannot listen on {error.interface} port {error.port}: {error.socketError}"
            fault = Fault(self._path, 0, "metrics", text, "Choose another port, or stop the program that uses it.")
            raise InvalidConfiguration([fault]) from None

    # --- the pages -------------------------------------------------------------------------------

    async def _metrics(self, request: Request) -> Answer:
        not_ready = await self._health.reasons()
        settings = self._parts.configuration().settings
        journal = journal_directory(settings, self._path) if settings.events.rules else None
        reading = read(self._parts, self._status, self._counters, journal, not_ready)
        accept = OPENMETRICS if _accepts(request, "application/openmetrics-text") else TEXT
        # In a thread of its own: it takes milliseconds, and is wanted most when the worker threads are stuck.
        body, content_type = await in_own_thread(self._parts.reactor, partial(self._exposition, reading, accept))
        return Answer(200, body, content_type)

    async def _live(self, request: Request) -> Answer:
        return _answer(request, "live", ())

    async def _ready(self, request: Request) -> Answer:
        return _answer(request, "ready", await self._health.reasons())


def _accepts(request: Request, content_type: str) -> bool:
    return content_type.encode() in (request.getHeader(b"accept") or b"")


def _answer(request: Request, state: Literal["live", "ready"], reasons: tuple[str, ...]) -> Answer:
    """Return 200, or 503 with the reasons, as text or as JSON."""
    status = 503 if reasons else 200
    if _accepts(request, "application/json"):
        body = json.dumps({state: not reasons, "reasons": reasons})
        return Answer(status, body.encode() + b"\n", "application/json")
    text = "".join(f"not {state}: {each}\n" for each in reasons) or f"{state}\n"
    return Answer(status, text.encode())
