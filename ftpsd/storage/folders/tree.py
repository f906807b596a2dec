"""Open the tree of a user: `FolderTrees`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.internet.defer import Deferred, DeferredList

from ftpsd.config.sections.folders import FolderSettings
from ftpsd.events.types import SessionInfo
from ftpsd.storage.backend import Backend, Files, Mount, User
from ftpsd.storage.folders.directories import FolderDirectories
from ftpsd.storage.folders.files import FolderFiles
from ftpsd.storage.folders.mounts import Mounted, MountTable, mounts_of
from ftpsd.storage.walks import Walks
from ftpsd.system.reactor import Clock
from ftpsd.system.worker_threads import WorkerThreads

#: Seconds for which a login waits for folders. One that is being counted, or whose disk does not respond, is not
#: available before it is open, and delays nobody's login any longer.
PATIENCE = 2.0


class FolderTrees:
    """Opens homes with the folders of their users. A user without folders gets what the backend of homes returns.

    `backend_of` returns the storage of a folder, `now` is the time for directories that do not exist.
    """

    def __init__(
        self,
        homes: Backend,
        backend_of: Callable[[FolderSettings], Backend],
        workers: WorkerThreads,
        clock: Clock,
        now: float,
    ) -> None:
        self._homes = homes
        self._backend_of = backend_of
        self._workers = workers
        self._clock = clock
        self._now = now

    async def open(self, user: User, session: SessionInfo) -> Files:
        """Return the files of a user for one session (see `Trees`)."""
        if not user.settings.folders:
            return await self._homes.open(user, session)
        backends = [self._homes, *map(self._backend_of, user.settings.folders.values())]
        mounted = [
            Mounted(mount, partial(_open, backend, user, session))
            for mount, backend in zip(mounts_of(user), backends, strict=True)
        ]
        home, *folders = mounted
        for each in folders:
            each.open()
        try:
            home.files = await self._homes.open(user, session, home.mount)
            await self._wait([each.opening for each in folders if each.opening is not None])
        except BaseException:
            for each in mounted:
                each.close()
            raise
        table, rules = MountTable(mounted), user.settings.permission_rules
        walks = Walks(self._workers.queue(user.name, "walk"))
        directories = FolderDirectories(table, rules, self._now)
        return FolderFiles(table, directories, self._workers.queue(user.name), walks)

    async def _wait(self, opening: list[Deferred[None]]) -> None:
        if not opening:
            return
        waiting: Deferred[None] = Deferred()

        def end(_: object = None) -> None:
            if not waiting.called:
                waiting.callback(None)

        timeout = self._clock.callLater(PATIENCE, end)
        DeferredList(opening).addCallback(end)
        try:
            await waiting
        finally:
            if timeout.active():
                timeout.cancel()


async def _open(backend: Backend, user: User, session: SessionInfo, mount: Mount) -> Files:
    return await backend.open(user, session, mount)
