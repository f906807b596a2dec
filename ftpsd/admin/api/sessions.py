"""The resources for sessions: list them, show one, and end them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias, TypeVar, get_args

from ftpsd.admin.api import schemas
from ftpsd.admin.api.arguments import BOOLEAN, NETWORK, TEXT, Arguments, Parameter, Schema
from ftpsd.admin.api.problem import Json, Problem, bad_value
from ftpsd.admin.api.routes import Answer, Call, Route, answer, list_answer
from ftpsd.admin.parts import Parts
from ftpsd.events.record import iso_time, valid_text
from ftpsd.events.types import AdministrativeAct
from ftpsd.limits.session_registry import SessionFilter, SessionState, SessionView, WorkersSilent
from ftpsd.protocol.replies import Reply

T = TypeVar("T")

STATES: tuple[SessionState, ...] = get_args(SessionState)

#: The most sessions of an answer.
MOST = 10_000

#: What a session is told without a message.
GOODBYE = "Session closed by the administrator."

#: The longest message: a line of a reply that every client reads.
LONGEST_MESSAGE = 200

Key: TypeAlias = "Callable[[SessionView], int | float | str | tuple[int, int] | None]"

#: What a list can be sorted by: the members of a session in JSON, and how much of a transfer is done.
KEYS: Mapping[str, Key] = {
    "number": lambda view: view.number,
    "user": lambda view: view.user,
    "address": lambda view: (view.address.version, int(view.address)),
    "since": lambda view: view.started,
    "idle": lambda view: None if view.idle_since is None else -view.idle_since,
    "tls": lambda view: view.tls,
    "client": lambda view: view.client_name or None,
    "command": lambda view: view.command or None,
    "path": lambda view: view.path,
    "direction": lambda view: view.direction,
    "bytes": lambda view: None if view.direction is None else view.bytes,
    "size": lambda view: view.expected_size,
    "rate": lambda view: None if view.direction is None else view.rate,
    "done": lambda view: None if view.direction is None or not view.expected_size else view.bytes / view.expected_size,
    "state": lambda view: view.state,
}
SORTS = [*KEYS, *(f"-{name}" for name in KEYS)]

USER = Parameter("user", TEXT, "Only sessions of this user.")
ADDRESS = Parameter("address", NETWORK, "Only sessions of clients with this address, or in this network.")
PAGE = (
    Parameter("sort", {"enum": list(SORTS)}, "The member to sort by; with a minus sign, the largest comes first."),
    Parameter("offset", {"type": "integer", "minimum": 0, "maximum": 10**9}, "How many to leave out."),
    Parameter("limit", {"type": "integer", "minimum": 0, "maximum": MOST}, "How many to return at most."),
)
MESSAGE = (
    Parameter("message", {**TEXT, "maxLength": LONGEST_MESSAGE}, "What the clients are told, in place of a default."),
    Parameter("now", BOOLEAN, "Cut a running transfer. By default it may finish."),
)


class Sessions:
    """The sessions of the daemon."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def routes(self) -> list[Route]:
        """Return the routes of this subject."""
        state = Parameter("state", {"enum": list(STATES)}, "Only sessions in this state.")
        number: dict[str, Schema] = {"number": {"type": "integer", "minimum": 1, "maximum": 10**12}}
        one, many, gone = "/v1/sessions/{number}", "/v1/sessions", schemas.DISMISSED
        listed = schemas.listed_sessions("sessions")
        return [
            Route("GET", many, self._list, "List sessions", listed, parameters=(USER, ADDRESS, state, *PAGE)),
            Route("DELETE", many, self._dismiss_many, "End sessions", gone, parameters=(USER, ADDRESS, *MESSAGE)),
            Route(
                "GET",
                one,
                self._show,
                "Show a session",
                schemas.to("Session"),
                path_parameters=number,
                problems=[404, 503],
            ),
            Route(
                "DELETE",
                one,
                self._dismiss_one,
                "End a session",
                gone,
                parameters=MESSAGE,
                path_parameters=number,
                problems=[404, 503],
            ),
            Route(
                "GET",
                "/v1/transfers",
                self._transfers,
                "List the sessions with a running transfer",
                schemas.listed_sessions("transfers"),
                parameters=(USER, ADDRESS, *PAGE),
            ),
        ]

    # --- handlers ----------------------------------------------------------------------------------

    async def _list(self, call: Call) -> Answer:
        wanted = SessionFilter(call.arguments.text("user"), call.arguments.network("address"), _state(call.arguments))
        return await self._page(call, "sessions", wanted.matches)

    async def _transfers(self, call: Call) -> Answer:
        wanted = SessionFilter(call.arguments.text("user"), call.arguments.network("address"))
        return await self._page(call, "transfers", lambda view: view.direction is not None and wanted.matches(view))

    async def _show(self, call: Call) -> Answer:
        view = await _known(self._parts.registry.find(_number(call)))
        if view is None:
            raise _no_such_session(call)
        return answer(self.form(view))

    async def _dismiss_one(self, call: Call) -> Answer:
        reply, now = _farewell(call.arguments)
        if not await _known(self._parts.registry.dismiss(_number(call), reply, now)):
            raise _no_such_session(call)
        self._publish(call, f"session {_number(call)}")
        return answer({"dismissed": 1})

    async def _dismiss_many(self, call: Call) -> Answer:
        arguments = call.arguments
        wanted = SessionFilter(arguments.text("user"), arguments.network("address"))
        reply, now = _farewell(arguments)
        if wanted.user is None and wanted.address is None:
            raise bad_value("user", "and address are missing", "Write one of them, or name a session in the path.")
        dismissed = await self._parts.registry.dismiss_each(wanted, reply, now)
        if dismissed.count or dismissed.missing:
            subjects = [
                f"user {wanted.user}" if wanted.user else "",
                f"address {wanted.address}" if wanted.address else "",
            ]
            self._publish(call, ", ".join(filter(None, subjects)))
        rest: dict[str, Json] = {"missing_workers": list(dismissed.missing)} if dismissed.missing else {}
        return answer({"dismissed": dismissed.count, **rest})

    # --- steps -------------------------------------------------------------------------------------

    async def _page(self, call: Call, name: str, matches: Callable[[SessionView], bool]) -> Answer:
        arguments = call.arguments
        sort = arguments.choice("sort", SORTS) or "number"
        offset, limit = arguments.number("offset", 0, 10**9), arguments.number("limit", MOST, MOST)
        sessions = await self._parts.registry.sessions()
        found = [view for view in sessions if matches(view)]
        await call.slices.pause()
        page = sort_views(found, sort)[offset : offset + limit]
        await call.slices.pause()
        rest: dict[str, Json] = {"total": len(found)}
        if sessions.missing:
            rest["missing_workers"] = list(sessions.missing)
        return await list_answer(call.slices, name, page, self.form, rest)

    def form(self, view: SessionView) -> Json:
        """Return a session in JSON."""
        moves = view.direction is not None
        idle = None if view.idle_since is None else round(max(0.0, self._parts.now() - view.idle_since), 3)
        return {
            "number": view.number,
            "user": _text(view.user),
            "address": str(view.address),
            "since": iso_time(view.started),
            "idle": idle,
            "tls": view.tls,
            "certificate": _text(view.certificate),
            "client": _text(view.client_name),
            "command": _text(view.command),
            "path": _text(view.path),
            "direction": view.direction,
            "bytes": view.bytes if moves else None,
            "size": view.expected_size,
            "rate": round(view.rate, 1) if moves else None,
            "state": view.state,
        }

    def _publish(self, call: Call, subject: str) -> None:
        self._parts.hub.publish(AdministrativeAct("kick", subject, call.administrator))


def sort_views(views: list[SessionView], sort: str) -> list[SessionView]:
    """Return sessions by one of their members; those without it come last."""
    key = KEYS[sort.lstrip("-")]
    known = [(value, view.number, view) for view in views if (value := key(view)) is not None]
    missing = [view for view in views if key(view) is None]
    known.sort(key=lambda each: each[:2], reverse=sort.startswith("-"))
    return [*(view for _, _, view in known), *missing]


def _text(text: str | None) -> str | None:
    return valid_text(text) if text else None


def _state(arguments: Arguments) -> SessionState | None:
    return arguments.choice("state", STATES)


def _number(call: Call) -> int:
    text = call.path["number"]
    if not (text.isascii() and text.isdecimal() and len(text) <= 12):
        raise _no_such_session(call)
    return int(text)


def _no_such_session(call: Call) -> Problem:
    return Problem(404, "There is no such session: it has ended, or never began. GET /v1/sessions lists all.")


async def _known(result: Awaitable[T]) -> T:
    """Return what the registry knows of a session. Raises Problem if a worker that does not answer may have it."""
    try:
        return await result
    except WorkersSilent as silent:
        missing = list(silent.missing)
        workers = ", ".join(map(str, missing))
        detail = f"Worker {workers} does not answer: the session may be there. Try again in some seconds."
        raise Problem(503, detail, missing_workers=missing) from None


def _farewell(arguments: Arguments) -> tuple[Reply, bool]:
    """Return the reply that ends sessions, and whether it cuts their transfers."""
    message = arguments.text("message") or GOODBYE
    if len(message) > LONGEST_MESSAGE or not message.isprintable():
        raise bad_value("message", "cannot be sent", f"Write one line of up to {LONGEST_MESSAGE} printable characters.")
    return Reply(421, message), arguments.flag("now")
