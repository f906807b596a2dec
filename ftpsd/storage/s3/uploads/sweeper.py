"""Remove old uploads that were cut: `StoreSweeper`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from time import time

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import Measure
from ftpsd.storage.s3.measure import abort_counted
from ftpsd.storage.s3.store import S3Store
from ftpsd.storage.s3.uploads.cut_uploads import CutUpload, Leftover
from ftpsd.system.jobs.job_queue import JobSteps
from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.reactor import Clock

log = Logger(namespace="ftpsd")

#: Seconds between two sweeps: the time for which uploads are kept, within these bounds. Requests are billed.
_MIN_INTERVAL, _MAX_INTERVAL = 5, 3600

#: Seconds for which an open upload without any part is left alone.
_DAY = 86_400

#: `Quotas.changing`, which counts the removal of an upload.
Changing = Callable[[str, Measure], AbstractContextManager[None]]


class StoreSweeper:
    """Removes, from one store, uploads of ftpsd whose last part came long ago. For the reactor thread."""

    def __init__(
        self,
        clock: Clock,
        store: S3Store,
        changing: Changing,
        now: Callable[[], float],
        may_sweep: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_sweep` is asked before each sweep: of several workers, one sweeps."""
        self._may_sweep = may_sweep
        self._clock = clock
        self._store = store
        self._changing = changing
        self._now = now
        self._task: PeriodicTask | None = None

    def start(self, keep: int | None) -> None:
        """Sweep from now on. Uploads are kept for `keep` seconds (None: forever)."""
        self.stop()
        if keep is not None:
            self._task = PeriodicTask(self._clock, "removing old uploads", partial(self._sweep, keep))
            self._task.start(max(_MIN_INTERVAL, min(_MAX_INTERVAL, keep)))

    def stop(self) -> None:
        """Begin no other sweep. May be called any number of times."""
        if self._task is not None:
            self._task.stop()
            self._task = None

    def _sweep(self, keep: int) -> Deferred[None] | None:
        if not self._may_sweep():
            return None
        steps = sweep(self._store, self._now() - keep, self._changing)
        swept = self._store.queue("sweep").run(steps)
        return swept.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        failure.trap(Refusal, OSError)  # the store fails: `Health` has logged it


def sweep(store: S3Store, before: float, changing: Changing, now: float | None = None) -> JobSteps[None]:
    """Remove the uploads of a store whose last part came before a POSIX time. Those that run are left alone.

    An upload without any part is removed when it is a day old: it may be that of another program (see `Leftover`).
    """
    freed = list[int]()
    lately = (time() if now is None else now) - _DAY
    for each in store.cut.all_below(store.settings.key_prefix):
        if isinstance(each, Leftover):
            if _is_old(store, each, before, lately) and store.cut.abort(each.key, each.identity):
                freed.append(0)
        elif each is not None and _is_left(store, each, before) and _remove(store, each, changing):
            freed.append(each.size)
        yield
    if freed:
        log.info(
            "removed {count} old uploads from the store {name}: {bytes} bytes",
            name=store.name,
            count=len(freed),
            bytes=sum(freed),
        )


def _is_left(store: S3Store, found: CutUpload, before: float) -> bool:
    return found.modified < before and not store.cut.may_run(found)


def _is_old(store: S3Store, found: Leftover, before: float, lately: float) -> bool:
    running = store.cut.running
    if found.is_empty:
        return found.modified < min(before, lately) and found.identity not in running
    return found.modified < before and not running.may_run(found.identity, found.modified)


def _remove(store: S3Store, upload: CutUpload, changing: Changing) -> bool:
    directory = store.place_of(upload.key.rpartition("/")[0])
    try:
        return abort_counted(store.cut, upload, partial(changing, directory))
    except BlockingIOError:
        return False  # the home is being counted: the next sweep removes it
