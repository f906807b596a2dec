"""The object stores of the daemon: made when a configuration is loaded, watched, and stopped after their sessions.

boto3 is imported with the first store.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from attrs import frozen
from twisted.python.failure import Failure

from ftpsd.config.sections.storage import ConfiguredStore, is_in_store, parse_place
from ftpsd.config.settings import QuotaSettings
from ftpsd.limits.home_counts import Amount
from ftpsd.outbox.evidence import without_stores
from ftpsd.outbox.segments import Entry
from ftpsd.protocol.printable import printable
from ftpsd.storage.backend import Backend, HomeMeter
from ftpsd.storage.quota import Quotas
from ftpsd.system.jobs.job_queue import JobQueue
from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.reactor import Reactor

if TYPE_CHECKING:
    from ftpsd.storage.s3.calls.client import Objects
    from ftpsd.storage.s3.files import Journals
    from ftpsd.storage.s3.store import S3Store
    from ftpsd.storage.s3.uploads.cut_uploads import CutUploads
    from ftpsd.storage.s3.uploads.running import Running
    from ftpsd.storage.s3.uploads.sweeper import StoreSweeper

#: Seconds between two looks at a store that is down, at one whose requests fail, and at one that works.
INTERVAL, _SUSPECT, _RARELY = 5.0, 15.0, 60.0

#: Seconds after which a look that has no answer counts as one that failed.
_NO_ANSWER = 15.0

#: Seconds in which a store must answer `probe_all`, and the longest text of one that is shown.
_PATIENCE, _LONGEST = 30.0, 500

State = Literal["unknown", "up", "down"]


@frozen
class StoreStatus:
    """A store at one moment. `error` is why it is down."""

    name: str
    bucket: str
    state: State
    error: str


class Watch:
    """Looks now and then whether a store can be used. For the reactor thread."""

    def __init__(self, store: S3Store, seconds: Callable[[], float]) -> None:
        self._store = store
        self._seconds = seconds
        self._looking = False
        self._began = 0.0
        #: When the last look has ended; None before the first one.
        self.looked: float | None = None

    def look(self) -> None:
        """Look, if it is time: a store that works is asked rarely, since requests are billed."""
        now = self._seconds()
        if self._looking:
            if now - self._began >= _NO_ANSWER:
                self._store.health.probed(f"no answer within {_NO_ANSWER:.0f} seconds")
                self._began = now
        elif self._is_due(now):
            self._looking, self._began = True, now
            self._store.check().addBoth(self._ended)

    def _is_due(self, now: float) -> bool:
        health = self._store.health
        if self.looked is None or health.why or health.is_doubtful:
            return True
        return now - self.looked >= (_SUSPECT if health.is_suspect else _RARELY)

    def _ended(self, result: object) -> None:
        self._looking = False
        self.looked = self._seconds()
        error = result.value if isinstance(result, Failure) else None
        self._store.health.probed("" if error is None else str(getattr(error, "why", "") or error))


class Sweepers:
    """Remove old uploads from all stores. For the reactor thread."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._running: list[StoreSweeper] = []

    def start(self, stores: Iterable[S3Store], keep: int | None, quotas: Quotas, may_sweep: Callable[[], bool]) -> None:
        """Sweep these stores from now on. Uploads are kept for `keep` seconds (None: forever)."""
        self.stop()
        for each in stores:
            from ftpsd.storage.s3.uploads.sweeper import StoreSweeper

            sweeper = StoreSweeper(self._reactor, each, quotas.changing, time.time, may_sweep)
            sweeper.start(keep)
            self._running.append(sweeper)

    def stop(self) -> None:
        """Begin no other sweep."""
        for each in self._running:
            each.stop()
        self._running = []


class Stores:
    """All stores of the configuration in effect. For the reactor thread, except as a `HomeMeter`.

    A store whose settings are as before a reload stays as it is. Another one works for its sessions as long as there
    are any.
    """

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._current: dict[ConfiguredStore, S3Store] = {}
        self._by_name: Mapping[str, S3Store] = {}
        self._watches: dict[ConfiguredStore, Watch] = {}
        self._running = False
        #: The uploads that run, by the bucket: also those of stores that a reload has changed.
        self._uploads: dict[str, Running] = {}
        self._sweepers = Sweepers(reactor)
        self._watching = PeriodicTask(reactor, "looking at the stores", self._look)

    def use(self, configured: Sequence[ConfiguredStore], patience: float) -> None:
        """Have these stores from now on. `patience` is `timeouts.stalled`."""
        known = self._current
        self._current = {each: known.get(each) or self._make(each, patience) for each in configured}
        for each in known.keys() - self._current.keys():
            known[each].stop_when_unused()
        self._by_name = {each.name: store for each, store in self._current.items()}

    def backends(
        self, quotas: Quotas, groups: Mapping[str, QuotaSettings], journals: Journals
    ) -> Mapping[str, Backend]:
        """Return the backends of homes and folders by the names of the stores. `groups` are those with a quota."""
        if not self._by_name:
            return {}
        from ftpsd.storage.s3.files import S3Backend

        return {name: S3Backend(store, quotas, groups, journals) for name, store in self._by_name.items()}

    def _make(self, configured: ConfiguredStore, patience: float) -> S3Store:
        from ftpsd.storage.s3.store import S3Store
        from ftpsd.storage.s3.uploads.running import Running

        bucket = f"{configured.settings.service} {configured.settings.bucket}"
        running = self._uploads.setdefault(bucket, Running(bucket))
        store = S3Store(configured, self._reactor, patience, running=running)
        if self._running:
            store.start()
        return store

    def start(self) -> None:
        """Start the threads of all stores, and look whether they can be used."""
        self._running = True
        for each in self._current.values():
            each.start()
        self._watching.start(INTERVAL)

    def stop(self) -> None:
        """Stop the threads."""
        self._running = False
        self._sweepers.stop()
        self._watching.stop()
        for each in self._current.values():
            each.stop()

    def sweep(self, keep: int | None, quotas: Quotas, may_sweep: Callable[[], bool]) -> None:
        """Remove old uploads from all stores from now on. They are kept for `keep` seconds (None: forever).

        `may_sweep` is asked before each sweep whether this process is the one that sweeps.
        """
        self._sweepers.start(self._current.values(), keep, quotas, may_sweep)

    def was_made(self, evidence: Entry) -> bool:
        """Return whether a change was made (see `outbox.evidence`). Blocks. In any thread."""
        store = self._by_name.get(str(evidence["store"]))
        if store is None:
            return without_stores(evidence)
        from ftpsd.storage.s3.uploads.evidence import was_made

        return was_made(store.objects, store.cut, evidence)

    def _look(self) -> None:
        for each, store in self._current.items():
            watch = self._watches.setdefault(each, Watch(store, self._reactor.seconds))
            watch.look()
        self._watches = {each: self._watches[each] for each in self._current}

    def status(self) -> tuple[StoreStatus, ...]:
        """Return the stores in the order of the configuration."""
        return tuple(_status(store, self._watches.get(each)) for each, store in self._current.items())

    def queue(self, home: str) -> JobQueue | None:
        """Return the queue in which a home is counted, in the threads of its store; None if it is in no store."""
        store = self._by_name.get(parse_place(home).store) if is_in_store(home) else None
        return None if store is None else store.queue(home)

    # --- as a HomeMeter ----------------------------------------------------------------------------

    def exists(self, home: str) -> bool:
        """Return whether there is such a home: there is always one in a store of the configuration."""
        return parse_place(home).store in self._by_name

    @cached_property
    def _meter(self) -> HomeMeter:
        from ftpsd.storage.s3.measure import StoreMeter

        return StoreMeter(self._find)

    def _find(self, home: str) -> tuple[Objects, CutUploads, str]:
        store = self._by_name.get(parse_place(home).store)
        if store is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), home)
        return store.objects, store.cut, store.prefix(home)

    def amounts(self, home: str, charged: Container[Hashable]) -> Iterator[Amount]:
        """Yield what a home holds, one page in each step. Raises OSError."""
        yield from self._meter.amounts(home, charged)


def _status(store: S3Store, watch: Watch | None) -> StoreStatus:
    error = store.health.why
    state: State = "down" if error else "unknown" if watch is None or watch.looked is None else "up"
    return StoreStatus(store.name, store.settings.bucket, state, error)


@frozen
class Probe:
    """What `ftpsd check --online` and the doctor find out about a store. Both texts are empty if all is well."""

    #: Why it cannot be used.
    error: str = ""
    #: Why nothing can be uploaded.
    read_only: str = ""


def meter_of(configured: Sequence[ConfiguredStore]) -> HomeMeter:
    """Return what measures homes in some stores, for the command line. It raises StoreFailed, too."""
    from ftpsd.storage.s3.calls.client import Calls, Objects
    from ftpsd.storage.s3.calls.multiparts import Multiparts
    from ftpsd.storage.s3.measure import StoreMeter
    from ftpsd.storage.s3.uploads.cut_uploads import CutUploads
    from ftpsd.system.aws.client import make_client

    by_name = {each.name: each for each in configured}

    def find(home: str) -> tuple[Objects, CutUploads, str]:
        name, prefix = parse_place(home)
        store = by_name[name]
        calls = Calls(make_client(store, 1, attempts=1), store.settings.bucket, lambda error: None)
        objects = Objects(calls)
        return objects, CutUploads(Multiparts(calls, objects)), store.settings.key_prefix + prefix

    return StoreMeter(find)


def probe_all(configured: Sequence[ConfiguredStore]) -> Mapping[str, Probe]:
    """Look whether stores can be used. Blocks for `_PATIENCE` at most."""
    found = {each.name: Probe(f"no answer within {_PATIENCE:.0f} seconds") for each in configured}
    threads = [threading.Thread(target=_probe, args=(each, found), daemon=True) for each in configured]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    for thread in threads:
        thread.join(max(0.0, began + _PATIENCE - time.monotonic()))
    return dict(found)


def _probe(configured: ConfiguredStore, found: dict[str, Probe]) -> None:
    from ftpsd.storage.s3.calls.errors import StoreFailed
    from ftpsd.storage.s3.probe import probe

    try:
        found[configured.name] = Probe(read_only=printable(probe(configured), _LONGEST))
    except Exception as error:
        why = error.why if isinstance(error, StoreFailed) else str(error) or repr(error)
        found[configured.name] = Probe(printable(why, _LONGEST))
