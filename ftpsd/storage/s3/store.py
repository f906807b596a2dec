"""One configured store: what its sessions share. Made when a configuration is loaded, and closed after its sessions."""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Hashable
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred

from ftpsd.config.sections.storage import LEAST_PART, ConfiguredStore, parse_place, place_in
from ftpsd.storage.s3.calls.client import Calls, Objects
from ftpsd.storage.s3.calls.health import Health
from ftpsd.storage.s3.calls.memory import Memory
from ftpsd.storage.s3.calls.multiparts import Multiparts
from ftpsd.storage.s3.calls.tasks import Closing
from ftpsd.storage.s3.calls.times import Times
from ftpsd.storage.s3.uploads.cut_uploads import CutUploads
from ftpsd.storage.s3.uploads.running import Running
from ftpsd.system.aws.client import PATIENT, make_client
from ftpsd.system.jobs.job_queue import JobQueue
from ftpsd.system.reactor import Reactor
from ftpsd.system.worker_threads import WorkerThreads

T = TypeVar("T")

#: The fewest threads of a store. One user gets half of them at most (see `FairQueue`).
_LEAST_THREADS = 16

#: Seconds that a call may take before another thread replaces its own: a part of 8 MiB on a slow line takes longer
#: than what a disk may take.
_STUCK = 30.0


class Threads(Protocol):
    """The threads of a store (see `WorkerThreads`)."""

    def queue(self, owner: Hashable) -> JobQueue:
        """Return the queue for the jobs of a user."""


class S3Store:
    """One store: its client, memory and threads. `threads` are for tests; else the store has its own."""

    def __init__(
        self,
        configured: ConfiguredStore,
        reactor: Reactor,
        patience: float = 120.0,
        threads: Threads | None = None,
        least_part: int = LEAST_PART,
        running: Running | None = None,
    ) -> None:
        self.configured = configured
        self._reactor = reactor
        self.name, self.settings = configured.name, configured.settings
        size = max(_LEAST_THREADS, 4 * self.settings.parallel)
        self.health = Health(self.name)
        client, patient = make_client(configured, size + 4), make_client(configured, size + 4, seconds=PATIENT)
        calls = Calls(client, self.settings.bucket, self.health.note, patient)
        #: For the probe, which reports to `health` itself.
        self._probing = Objects(Calls(client, self.settings.bucket, lambda error: None))
        self.objects = Objects(calls)
        self.multiparts = Multiparts(calls, self.objects)
        self.cut = CutUploads(self.multiparts, running)
        self.times = Times(self.objects, self.settings.exact_times)
        self.closing = Closing()
        self.memory = Memory(self.settings.memory)
        #: The fewest bytes of a part that is not the last one.
        self.least_part = least_part
        #: A part that is not full is kept if it has so many bytes: that happens in tests, which send a few bytes.
        self.least_kept = least_part if least_part < LEAST_PART else sys.maxsize
        #: The time of modification of directories, which have none: seconds since 1970.
        self.started = time.time()
        self._own = WorkerThreads(reactor, size, patience, stuck=_STUCK, what="a store") if threads is None else None
        self._threads: Threads = threads if threads is not None else _required(self._own)

    def start(self) -> None:
        """Start the threads."""
        if self._own is not None:
            self._own.start()

    def stop(self) -> None:
        """Stop the threads. A call that hangs does not delay the exit."""
        if self._own is not None:
            self._own.stop()

    def stop_when_unused(self) -> None:
        """Stop the threads when no session has the store any more: the configuration has another one."""
        if self._own is not None:
            weakref.finalize(self, self._reactor.callFromThread, self._own.stop)

    def queue(self, owner: Hashable) -> JobQueue:
        """Return the queue for the jobs of a user in the threads of the store."""
        return self._threads.queue(owner)

    def prefix(self, place: str) -> str:
        """Return what all keys of a home or folder begin with: empty, or it ends with a slash."""
        return self.settings.key_prefix + parse_place(place).prefix

    def place_of(self, path: str) -> str:
        """Return the place of a directory, given as a key without its last slash."""
        return place_in(self.name, path.removeprefix(self.settings.key_prefix.rstrip("/")).lstrip("/"))

    def probe(self) -> None:
        """Look whether the store can be used. Blocks. Raises StoreFailed."""
        self._probing.page(self.settings.key_prefix, flat=True, most=1)

    def check(self) -> Deferred[None]:
        """As `probe`, in a thread of the store."""
        return self.queue("probe").call(self.probe)


def _required(found: WorkerThreads | None) -> WorkerThreads:
    assert found is not None
    return found
