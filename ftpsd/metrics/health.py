"""Decide whether the daemon can serve clients: Health."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from ftpsd.admin.parts import Parts

#: Seconds in which a worker thread must begin a job. Logins wait as long.
PATIENCE = 2


class Health:
    """Finds out why the daemon is not ready."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def reasons(self) -> tuple[str, ...]:
        """Return why the daemon is not ready for clients; nothing if it is. Takes `PATIENCE` seconds at most."""
        parts = self._parts
        found = ["the daemon is stopping"] if parts.counts.sessions.closed else []
        for each in parts.listeners.missing(parts.configuration().settings.listen):
            found.append(f"not listening on {each.address} port {each.port}")
        found += self._sources()
        if not await self._worker_threads_respond():
            found.append("the worker threads do not respond: a disk may not respond")
        return tuple(found)

    def _sources(self) -> list[str]:
        """Return the sources that are down, if nobody can log in without them.

        A balancer would take all daemons out of service for one source that is down, together with users of others.
        """
        sources = self._parts.sources.status()
        if not sources or any(each.state != "down" for each in sources) or len(self._parts.configuration().users.users):
            return []
        return [each.error for each in sources]

    async def _worker_threads_respond(self) -> bool:
        """Run a job that does nothing, as a login would."""
        answer: Deferred[bool] = self._parts.workers.queue("health", "login").call(bool, True)
        clock: IReactorTime = self._parts.reactor  # type: ignore[assignment]
        try:
            return await answer.addTimeout(PATIENCE, clock)
        except Exception:  # the time-out, or the Refusal of a call that was cancelled
            return False
