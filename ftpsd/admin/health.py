"""Decide whether the daemon can serve clients: Health."""

from __future__ import annotations

from ftpsd.admin.parts import Parts


class Health:
    """Finds out why the daemon is not ready."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def reasons(self) -> tuple[str, ...]:
        """Return why the daemon is not ready for clients; nothing if it is. Takes some seconds at most."""
        parts = self._parts
        await parts.figures.refresh()
        found = ["the daemon is stopping"] if parts.counts.sessions.closed else []
        for each in parts.listeners.missing(parts.configuration().settings.listen):
            found.append(f"not listening on {each.address} port {each.port}")
        found += self._sources()
        found += self._stores()
        found += await parts.figures.faults()
        return tuple(found)

    def _sources(self) -> list[str]:
        """Return the sources that are down, if nobody can log in without them.

        A balancer would take all daemons out of service for one source that is down, together with users of others.
        """
        sources = self._parts.figures.read().sources
        if not sources or any(each.state != "down" for each in sources) or len(self._parts.configuration().users.users):
            return []
        return [each.error for each in sources]

    def _stores(self) -> list[str]:
        """Return the stores that are down, if no home or folder is elsewhere (see `_sources`)."""
        configuration, stores = self._parts.configuration(), self._parts.stores.status()
        elsewhere = configuration.users.homes.outermost or configuration.settings.sandbox.homes
        if not stores or elsewhere or any(each.state != "down" for each in stores):
            return []
        return [f"the store {each.name} cannot be used: {each.error}" for each in stores]
