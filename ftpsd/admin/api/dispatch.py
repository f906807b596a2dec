"""The API: finds the route of a request, and answers it: Api.

The same API serves the socket of the administrators and whoever else asks. `identify` says who that is.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from urllib.parse import unquote

from twisted.logger import Logger

from ftpsd.admin.api.arguments import Arguments
from ftpsd.admin.api.problem import Problem
from ftpsd.admin.api.routes import Answer, Call, Route
from ftpsd.system.reactor import Clock
from ftpsd.system.slices import Slices
from ftpsd.web.server import Answer as HttpAnswer
from ftpsd.web.server import BoundedRequest, header

log = Logger(namespace="ftpsd")

#: Returns who makes a request, as the log and the audit file show it. Raises Problem (401, 403).
Identify = Callable[[BoundedRequest], Awaitable[str]]


class Api:
    """All routes. `Api` is a handler for `web.server`."""

    def __init__(self, clock: Clock, routes: Iterable[Route]) -> None:
        self._clock = clock
        #: The segments of each path, and the routes of that path by method.
        self._paths: list[tuple[Sequence[str], dict[str, Route]]] = []
        self.routes = list(routes)
        by_path: dict[str, dict[str, Route]] = {}
        for route in self.routes:
            by_path.setdefault(route.path, {})[route.method] = route
        self._paths = [(path.split("/"), methods) for path, methods in by_path.items()]

    async def answer(self, request: BoundedRequest, identify: Identify) -> HttpAnswer | None:
        """Answer a request; None if the handler writes the answer itself."""
        try:
            result = await self._handle(request, identify)
        except Problem as problem:
            return problem_answer(problem)
        except Exception:
            log.failure("internal error in the admin API")
            return problem_answer(Problem(500, "Internal error: see the server's log."))
        if isinstance(result, Answer):
            return HttpAnswer(result.status, result.body, "application/json")
        return None

    async def _handle(self, request: BoundedRequest, identify: Identify) -> object:
        content: bytes = request.content.read()  # type: ignore[union-attr]  # it is closed when the client goes
        administrator = await identify(request)
        methods, parts = self._find(request.path)
        method = request.method.decode("ascii", "replace")
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None or (method == "HEAD" and route.is_stream):
            allowed = [each for each in ("GET", "HEAD", *methods) if each in methods or _has_head(each, methods)]
            names = ", ".join(dict.fromkeys(allowed))
            raise Problem(405, f"This resource has no {method[:20]!a}. Use {names}.", {"Allow": names})
        arguments = Arguments(_query(request.uri), route.parameters)
        body = b"" if route.body is None else _json(request, content)
        slices = Slices(self._clock)
        return await route.handle(Call(arguments, parts, body, administrator, slices, request))

    def _find(self, path: bytes) -> tuple[dict[str, Route], dict[str, str]]:
        """Return the routes of a path by method, and its parts that the route names. Raises Problem (404)."""
        given = path.decode("ascii", "replace").split("/")
        for segments, methods in self._paths:
            if len(segments) == len(given) and all(map(_fits, segments, given)):
                pairs = zip(segments, given, strict=True)
                return methods, {
                    name[1:-1]: unquote(text, errors="surrogateescape") for name, text in pairs if name[:1] == "{"
                }
        raise Problem(404, "There is no such resource. GET /v1/openapi.json describes all.")


def _fits(segment: str, given: str) -> bool:
    return bool(given) if segment[:1] == "{" else segment == given


def _has_head(method: str, methods: dict[str, Route]) -> bool:
    return method == "HEAD" and "GET" in methods and not methods["GET"].is_stream


def _query(uri: bytes) -> str:
    return uri.partition(b"?")[2].decode("ascii", "replace")


def _json(request: BoundedRequest, data: bytes) -> bytes:
    """Return the body. Only JSON is accepted: a form, which any page of the web could send, is not."""
    kind = header(request, "content-type").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "The body must be JSON. Send Content-Type: application/json.")
    return data


def refusal(status: int, detail: str) -> HttpAnswer:
    """Return the answer to a request that cannot be read."""
    return problem_answer(Problem(status, detail))


def problem_answer(problem: Problem) -> HttpAnswer:
    """Return the answer for an error."""
    body = json.dumps(problem.json()).encode()
    return HttpAnswer(problem.status, body, "application/problem+json", tuple(problem.headers.items()))
