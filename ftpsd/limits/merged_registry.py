"""The sessions of all workers, as the supervisor sees them: MergedSessionRegistry, and `serve_registry` for a worker.

Views come in pages, and the workers are asked at the same time. One that does not answer within a second is left out.
Sessions are ended in pages as well: a worker that has thousands is busy for longer than that second.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Coroutine
from typing import TypeVar

from twisted.internet.defer import Deferred, gatherResults

from ftpsd.limits.session_registry import (
    Dismissed,
    LocalSessionRegistry,
    SessionFilter,
    SessionList,
    SessionState,
    SessionView,
    WorkersSilent,
)
from ftpsd.protocol.replies import Refusal, Reply
from ftpsd.system.link import Link, Links
from ftpsd.system.messages.codec import Codec, Malformed

T = TypeVar("T")

#: Seconds for an answer.
PATIENCE = 1.0

#: Views in one answer: making and reading them takes less than a millisecond at either end.
PAGE = 50

#: Sessions that are ended in one call: each costs more than a view, because it is sent a reply.
DISMISSALS = 20

#: The most sessions that one worker may have: one that was taken over cannot keep the supervisor busy with more.
MOST = 100_000

#: The year 5138, in POSIX time: later times have no date.
_END_OF_TIME = 1e11

_VIEWS = Codec(SessionView)


def serve_registry(link: Link, registry: LocalSessionRegistry) -> None:
    """Let the supervisor see and end the sessions of this process."""

    async def find(number: int) -> object:
        view = await registry.find(number)
        return None if view is None else _VIEWS.encode(view)

    async def dismiss(number: int, code: int, lines: list[str], immediately: bool) -> bool:
        return await registry.dismiss(number, Reply(code, *lines), immediately)

    def dismiss_page(
        user: str | None,
        address: str | None,
        state: SessionState | None,
        code: int,
        lines: list[str],
        now: bool,
        after: int,
        end: int,
    ) -> tuple[int, int | None]:
        network = None if address is None else ipaddress.ip_network(address)
        wanted = SessionFilter(user, network, state)
        return registry.dismiss_page(wanted, Reply(code, *lines), now, after, end, DISMISSALS)

    link.serve("registry.page", lambda after: [_VIEWS.encode(view) for view in registry.page(after, PAGE)])
    link.serve("registry.find", find)
    link.serve("registry.dismiss", dismiss)
    link.serve("registry.last", lambda: registry.last)
    link.serve("registry.dismiss_page", dismiss_page)


class MergedSessionRegistry:
    """The sessions of all workers. For the reactor thread."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def sessions(self) -> SessionList:
        """Return all sessions, in the order in which they began, and which workers did not answer."""
        found = await self._ask_all(self._sessions_of)
        merged = SessionList(view for views in found.values() for view in views or ())
        merged.sort(key=lambda view: view.number)
        merged.missing = _silent(found)
        return merged

    async def find(self, number: int) -> SessionView | None:
        """Return the session with that number, or None if it has ended. Raises WorkersSilent."""

        async def ask(link: Link) -> tuple[SessionView | None]:
            found = await _call(link, "registry.find", number)
            return (None if found is None else _decode(found),)

        return _known(await self._ask_all(ask))

    async def dismiss(self, number: int, reply: Reply, immediately: bool = False) -> bool:
        """End a session with a reply, after its transfer or immediately. Return False if it has ended before.

        Raises WorkersSilent.
        """

        async def ask(link: Link) -> tuple[bool | None]:
            answer = await _call(link, "registry.dismiss", number, reply.code, reply.lines, immediately)
            return (answer is True or None,)

        return _known(await self._ask_all(ask)) is True

    async def dismiss_each(self, wanted: SessionFilter, reply: Reply, immediately: bool = False) -> Dismissed:
        """End the sessions that run now with a reply, each after its transfer or immediately."""
        address = None if wanted.address is None else str(wanted.address)
        arguments = wanted.user, address, wanted.state, reply.code, reply.lines, immediately
        total = 0

        async def ask(link: Link) -> bool:
            nonlocal total
            end, last = _number(await _call(link, "registry.last")), 0  # clients that connect again have higher numbers
            for _ in range(MOST):
                if last >= end:
                    break
                answer = await _call(link, "registry.dismiss_page", *arguments, last, end)
                if type(answer) is not list or len(answer) != 2:
                    raise Malformed("this is no page of dismissals")
                total += min(_number(answer[0]), DISMISSALS)
                last = end if answer[1] is None else _number(answer[1], last + 1)
            return True

        found = await self._ask_all(ask)
        return Dismissed(total, _silent(found))

    # --- steps -----------------------------------------------------------------------------------

    async def _sessions_of(self, link: Link) -> list[SessionView]:
        views: list[SessionView] = []
        last = 0
        while len(views) < MOST:
            page = await _call(link, "registry.page", last)
            if type(page) is not list or len(page) > PAGE:
                raise Malformed("this is no page of sessions")
            views += map(_decode, page)
            if len(page) < PAGE:
                return views
            if views[-1].number <= last:
                raise Malformed("the sessions are not in order")
            last = views[-1].number
        return views

    async def _ask_all(self, ask: Callable[[Link], Coroutine[Deferred[object], object, T]]) -> dict[int, T | None]:
        """Return the answers of all workers by their index; None from one that has not answered, or not sensibly."""

        async def one(link: Link) -> T | None:
            try:
                return await ask(link)
            except (Refusal, Malformed):
                return None

        links = dict(self._links.links)
        answers = await gatherResults([Deferred.fromCoroutine(one(link)) for link in links.values()])
        return dict(zip(links, answers, strict=True))


def _call(link: Link, name: str, *arguments: object) -> Deferred[object]:
    return link.call(name, *arguments, patience=PATIENCE)


def _silent(answers: dict[int, T | None]) -> tuple[int, ...]:
    """Return the workers that have not answered."""
    return tuple(index for index, answer in answers.items() if answer is None)


def _known(answers: dict[int, tuple[T | None] | None]) -> T | None:
    """Return what one of the workers knows, or None if all say that they know nothing. Raises WorkersSilent."""
    for answer in answers.values():
        if answer is not None and answer[0] is not None:
            return answer[0]
    if silent := _silent(answers):
        raise WorkersSilent(silent)
    return None


def _number(value: object, least: int = 0) -> int:
    if type(value) is not int or value < least:
        raise Malformed("this is no number")
    return value


def _decode(value: object) -> SessionView:
    view = _VIEWS.decode(value)
    if not all(0 <= each < _END_OF_TIME for each in (view.started, view.idle_since or 0)):
        raise Malformed("this is no time")
    return view
