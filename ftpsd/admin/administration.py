"""The administration of the daemon: makes the API, and serves it on its socket: Administration."""

from __future__ import annotations

import pwd
from collections.abc import Iterable
from typing import cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger

from ftpsd.admin.api.bans import Bans
from ftpsd.admin.api.daemon import DaemonResources
from ftpsd.admin.api.dispatch import Api, refusal
from ftpsd.admin.api.events import EventStreams
from ftpsd.admin.api.openapi import with_document
from ftpsd.admin.api.problem import Problem
from ftpsd.admin.api.routes import Route
from ftpsd.admin.api.sessions import Sessions
from ftpsd.admin.api.users import Users
from ftpsd.admin.findings import FindingsReader
from ftpsd.admin.page.login_resource import LoginResource
from ftpsd.admin.page.server import Page
from ftpsd.admin.parts import Parts
from ftpsd.admin.status import StatusReader
from ftpsd.admin.unix_socket import Peer, UnixSocket, peer_of, socket_path
from ftpsd.config.sections.admin import AdminSettings
from ftpsd.web.server import Answer, BoundedRequest, Bounds, HttpServer

log = Logger(namespace="ftpsd")

#: A reload may have to look at 100,000 homes.
BOUNDS = Bounds(connections=64, seconds=10, answer=300, body=64 * 1024)

#: Seconds to look up the name of a user of the system. After that, the number stands for it.
LOOK_UP = 1.0

#: Names of users that are remembered.
MOST_NAMES = 1000


class Administration:
    """The API of one daemon, and its page. `configuration` is the path of the configuration file, for faults."""

    def __init__(self, parts: Parts, status: StatusReader, configuration: str) -> None:
        self._parts = parts
        self._status = status
        self._configuration = configuration
        self._streams = EventStreams(parts)
        logins = LoginResource()
        routes = [*_routes(parts, status, configuration), *self._streams.routes(), *logins.routes()]
        self.api = Api(parts.reactor, with_document(routes))
        self._page = logins.page = Page(parts, self.api, status, configuration)
        self._socket: UnixSocket | None = None
        self._server = HttpServer(parts.reactor, self._answer, BOUNDS, refusal)
        #: The names of users of the system, by number.
        self._names: dict[int, str] = {}
        #: The processes that have connected, for the log.
        self._logged: dict[tuple[int, int], None] = {}

    def open(self, settings: AdminSettings) -> None:
        """Bind the socket and the port of the page, if there are to be any. Raises InvalidConfiguration."""
        self._page.open(settings.page)
        path = socket_path(settings)
        if path is not None:
            self._socket = UnixSocket(path, settings.group, self._configuration)

    def start(self) -> None:
        """Serve the API, and the page."""
        self._page.start()
        if self._socket is not None:
            self._status.start()
            self._socket.serve(self._parts.reactor, cast(ServerFactory, self._server))
            log.info("admin API on {path}", path=self._socket.path)
        elif self._page.url:
            log.warn("nobody can log in to the page: `ftpsd page` needs admin.socket")

    def stop(self) -> Deferred[None]:
        """Close all connections, and remove the socket."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._status.stop()
        self._streams.close()
        await maybeDeferred(self._page.stop)
        if self._socket is None:
            return
        await maybeDeferred(self._socket.close)
        sent: Deferred[None] = Deferred()
        self._parts.reactor.callLater(0, sent.callback, None)
        await sent  # what was written to the connections
        self._server.close()

    async def _answer(self, request: BoundedRequest) -> Answer | None:
        return await self.api.answer(request, self._identify)

    async def _identify(self, request: BoundedRequest) -> str:
        """Return the name of the user who asks. Raises Problem (403) for one who may not."""
        assert self._socket is not None
        peer = peer_of(request.channel.transport.getHandle())  # type: ignore[union-attr]
        name = await self._name(peer.user)
        self._log_once(peer, name)
        if not self._socket.may_use(peer):
            raise Problem(403, "Only root, the daemon's user and members of the group of the socket may use the API.")
        return name

    def _log_once(self, peer: Peer, name: str) -> None:
        """Log a process at its first request. `ftpsd top` makes one each second."""
        key = peer.process, peer.user
        if key not in self._logged:
            self._logged[key] = None
            if len(self._logged) > MOST_NAMES:
                del self._logged[next(iter(self._logged))]
            log.info("admin API: process {process} of {name} has connected", process=peer.process, name=name)

    async def _name(self, user: int) -> str:
        """Return the name of a user of the system. Name services may take their time: look it up in a thread."""
        if user not in self._names:
            looked_up = self._parts.workers.queue("administration", "login").call(_look_up, user)
            try:
                found = await looked_up.addTimeout(LOOK_UP, self._parts.reactor)  # type: ignore[arg-type]
            except Exception:
                return f"uid {user}"
            if len(self._names) < MOST_NAMES:
                self._names[user] = found
            return found
        return self._names[user]


def _routes(parts: Parts, status: StatusReader, configuration: str) -> Iterable[Route]:
    bans = Bans(parts)
    yield from DaemonResources(parts, status, FindingsReader(parts, configuration)).routes()
    yield from Sessions(parts).routes()
    yield from bans.routes()
    yield from Users(parts, bans).routes()


def _look_up(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"uid {user}"
