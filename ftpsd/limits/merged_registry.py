"""The sessions of all workers, as the supervisor sees them: MergedSessionRegistry, and `serve_registry` for a worker.

Views come in pages, and the workers are asked at the same time. One that does not answer within a second is left out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Coroutine
from typing import TypeVar, cast

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from ftpsd.limits.session_registry import LocalSessionRegistry, SessionFilter, SessionList, SessionState, SessionView
from ftpsd.protocol.replies import Refusal, Reply
from ftpsd.system.link import Link, Links
from ftpsd.system.messages.codec import Codec, Malformed
from ftpsd.system.reactor import Clock

T = TypeVar("T")

#: Seconds for an answer.
PATIENCE = 1.0

#: Views in one answer: making and reading them takes less than a millisecond at either end.
PAGE = 50

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

    async def dismiss_each(
        user: str | None, address: str | None, state: SessionState | None, code: int, lines: list[str], now: bool
    ) -> int:
        network = None if address is None else ipaddress.ip_network(address)
        return await registry.dismiss_each(SessionFilter(user, network, state), Reply(code, *lines), now)

    link.serve("registry.page", lambda after: [_VIEWS.encode(view) for view in registry.page(after, PAGE)])
    link.serve("registry.find", find)
    link.serve("registry.dismiss", dismiss)
    link.serve("registry.dismiss_each", dismiss_each)


class MergedSessionRegistry:
    """The sessions of all workers. For the reactor thread."""

    def __init__(self, clock: Clock, links: Links) -> None:
        self._clock = clock
        self._links = links

    async def sessions(self) -> SessionList:
        """Return all sessions, in the order in which they began, and which workers did not answer."""
        found = await self._ask_all(self._sessions_of)
        merged = SessionList(view for views in found.values() for view in views or ())
        merged.sort(key=lambda view: view.number)
        merged.missing = tuple(index for index, views in found.items() if views is None)
        return merged

    async def find(self, number: int) -> SessionView | None:
        """Return the session with that number, or None if it has ended."""

        async def ask(link: Link) -> SessionView | None:
            found = await self._call(link, "registry.find", number)
            return None if found is None else _decode(found)

        return next((view for view in (await self._ask_all(ask)).values() if view is not None), None)

    async def dismiss(self, number: int, reply: Reply, immediately: bool = False) -> bool:
        """End a session with a reply, after its transfer or immediately. Return False if it has ended before."""

        async def ask(link: Link) -> bool:
            return await self._call(link, "registry.dismiss", number, reply.code, reply.lines, immediately) is True

        return any((await self._ask_all(ask)).values())

    async def dismiss_each(self, wanted: SessionFilter, reply: Reply, immediately: bool = False) -> int:
        """End sessions with a reply, each after its transfer or immediately. Return how many."""
        address = None if wanted.address is None else str(wanted.address)
        arguments = wanted.user, address, wanted.state, reply.code, reply.lines, immediately

        async def ask(link: Link) -> int:
            count = await self._call(link, "registry.dismiss_each", *arguments)
            return count if type(count) is int and 0 <= count <= MOST else 0

        return sum(count or 0 for count in (await self._ask_all(ask)).values())

    # --- steps -----------------------------------------------------------------------------------

    async def _sessions_of(self, link: Link) -> list[SessionView]:
        views: list[SessionView] = []
        last = 0
        while len(views) < MOST:
            page = await self._call(link, "registry.page", last)
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

    def _call(self, link: Link, name: str, *arguments: object) -> Deferred[object]:
        answer: Deferred[object] = link.call(name, *arguments)
        return answer.addTimeout(PATIENCE, cast(IReactorTime, self._clock))


def _decode(value: object) -> SessionView:
    view = _VIEWS.decode(value)
    if not all(0 <= each < _END_OF_TIME for each in (view.started, view.idle_since or 0)):
        raise Malformed("this is no time")
    return view
