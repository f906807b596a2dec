"""Serve the page: its files, live data, and the API for browsers that have logged in: Page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import cast

from attrs import evolve
from twisted.internet import tcp
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger

from ftpsd.admin.api.arguments import Arguments
from ftpsd.admin.api.dispatch import Api, problem_answer, refusal
from ftpsd.admin.api.problem import Json, Problem
from ftpsd.admin.api.routes import Answer as ApiAnswer
from ftpsd.admin.api.routes import Call
from ftpsd.admin.page.access import SECURITY, Access, json_answer, session
from ftpsd.admin.page.live import Live
from ftpsd.admin.page.logins import CODE_LIFE, Browser
from ftpsd.admin.page.stream import Stream
from ftpsd.admin.page.streams import Streams
from ftpsd.admin.parts import Parts
from ftpsd.admin.status import StatusReader
from ftpsd.config.faults import Fault, InvalidConfiguration
from ftpsd.config.sections.admin import PageSettings
from ftpsd.system.slices import Slices
from ftpsd.web.server import NOT_FOUND, Answer, BoundedRequest, Bounds, HttpServer

log = Logger(namespace="ftpsd")

#: A browser has up to six connections open, and each request has one of its own. A reload may take minutes.
BOUNDS = Bounds(connections=128, seconds=10, answer=300, body=64 * 1024)

BACKLOG = 64

#: The types of the files that are served.
TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}


class Page:
    """The page of one daemon. `configuration` is the path of the configuration file, for faults."""

    def __init__(self, parts: Parts, api: Api, status: StatusReader, configuration: str) -> None:
        self._parts = parts
        self._api = api
        self._status = status
        self._configuration = configuration
        self._access = Access(parts)
        self._sessions = next(each for each in api.routes if (each.method, each.path) == ("GET", "/v1/sessions"))
        self._live = Live(parts, status, self._list_sessions)
        self._streams = Streams(parts.reactor, self._access.logins)
        self._server = HttpServer(parts.reactor, self._answer, BOUNDS, refusal)
        self._files: Mapping[str, Answer] = {}
        self._port: tcp.Port | None = None
        #: The address of the page for a browser on this machine.
        self.url = ""

    # --- life --------------------------------------------------------------------------------------

    def open(self, settings: PageSettings | None) -> None:
        """Bind the port, if there is to be a page. Raises InvalidConfiguration."""
        if settings is None:
            return
        factory = cast(IProtocolFactory, self._server)
        port = tcp.Port(settings.port, factory, BACKLOG, settings.address, self._parts.reactor)
        try:
            port.startListening()
        except CannotListenError as error:
            text = f"cannot listen on {error.interface} port {error.port}: {error.socketError}"
            remedy = "Choose another port, or stop the program that uses it."
            raise InvalidConfiguration([Fault(self._configuration, 0, "admin.page", text, remedy)]) from None
        self._port = port
        self._files = _static_files()  # before the sandbox begins
        self._access.use(settings.hosts, port.getHost().port)
        host = "localhost" if settings.address in ("0.0.0.0", "::") else settings.address
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port.getHost().port}/"

    def start(self) -> None:
        """Watch the daemon for the page."""
        if self._port is not None:
            self._status.start()
            self._live.start()
            self._streams.start()
            log.info("admin page on {url}", url=self.url)

    def stop(self) -> object:
        """Close the port and all connections."""
        self._live.stop()
        self._streams.stop()
        closing = None if self._port is None else self._port.stopListening()
        self._server.close()
        return closing

    def make_login(self, administrator: str) -> Json:
        """Return an address with which a browser can log in once. Raises Problem (409) if there is no page."""
        if self._port is None:
            raise Problem(409, "There is no page. Write admin: {page: {}} into the configuration, and restart.")
        code = self._access.logins.make_code(administrator)
        return {"url": f"{self.url}#login={code}", "seconds": CODE_LIFE}

    # --- requests ----------------------------------------------------------------------------------

    async def _answer(self, request: BoundedRequest) -> Answer | None:
        try:
            self._access.check_host(request)
            answer = await self._route(request)
        except Problem as problem:
            answer = problem_answer(problem)
        if answer is None:
            self._streams.add(request, self._access.cookie(request))
            return None
        return evolve(answer, headers=(*answer.headers, *SECURITY))

    async def _route(self, request: BoundedRequest) -> Answer | None:
        path = request.path.decode("ascii", "replace")
        if path.startswith("/v1/"):
            return await self._api.answer(request, self._identify)
        if path == "/login":
            return await self._access.log_in(request)
        if path == "/logout" and request.method == b"POST":
            return self._log_out(self._access.browser(request))
        if request.method not in (b"GET", b"HEAD"):
            return NOT_FOUND
        if path in self._files:
            return self._files[path]
        if path == "/live" and request.method == b"GET":
            self._access.browser(request)
            return await self._stream(request)
        return self._data(path, request)

    def _data(self, path: str, request: BoundedRequest) -> Answer:
        shown: dict[str, Callable[[], Json]] = {
            "/session": lambda: session(self._access.browser(request)),
            "/history": self._live.history,
            "/recent": self._live.recent,
        }
        if path not in shown:
            return NOT_FOUND
        self._access.browser(request)
        return json_answer(shown[path]())

    async def _identify(self, request: BoundedRequest) -> str:
        return f"{self._access.browser(request).administrator} (page)"

    def _log_out(self, browser: Browser) -> Answer:
        self._access.logins.log_out(browser)
        self._streams.end_outlived()
        return json_answer({"ok": True})

    async def _stream(self, request: BoundedRequest) -> Answer | None:
        stream = Stream(request, request.uri.partition(b"?")[2].decode("ascii", "replace"))
        await self._list_sessions(stream)  # raises Problem for a query that cannot be used
        if request.is_gone:
            return None  # a stream that begins now would never end
        if not self._live.add(stream):
            raise Problem(503, "Too many browsers have the page open. Close one.")
        return None

    async def _list_sessions(self, stream: Stream) -> bytes:
        arguments = Arguments(stream.query, self._sessions.parameters)
        slices = Slices(self._parts.reactor)
        result = await self._sessions.handle(Call(arguments, {}, b"", "", slices, stream.request))
        assert isinstance(result, ApiAnswer)
        return result.body


def _static_files() -> dict[str, Answer]:
    """Return the files of the page by their paths."""
    found: dict[str, Answer] = {}
    directories = [("/", files("ftpsd.admin.page") / "static")]
    while directories:
        path, directory = directories.pop()
        for each in directory.iterdir():
            kind = TYPES.get(each.name.rpartition(".")[2])
            if each.is_dir():
                directories.append((f"{path}{each.name}/", each))
            elif kind is not None:
                found[path + each.name] = Answer(200, each.read_bytes(), f"{kind}; charset=utf-8")
    found["/"] = found["/index.html"]
    return found
