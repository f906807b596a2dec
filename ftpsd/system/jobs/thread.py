"""One worker thread, as its pool sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from ftpsd.system.jobs.fair_queue import Job, OwnerQueue

#: What runs, as its `thread` and `pool`: `threading.current_thread` costs two calls for each step.
here = threading.local()


class WorkerThread(threading.Thread):
    """One thread of the pool. The pool's lock guards all attributes but `step_began`.

    idle       in `WorkerThreads._idle`, blocked at `wake_up`
    running    `queue` is set; `step_began` is updated after each step
    replaced   stuck, and `replaced` is set: another thread runs instead of it, and it ends with its job
    """

    def __init__(self, work: Callable[[WorkerThread], None]) -> None:
        super().__init__(target=work, args=(self,), name="worker", daemon=True)
        #: A lock that is held while the thread is idle. Releasing it wakes the thread.
        self.wake_up = threading.Lock()
        self.wake_up.acquire()
        #: The job to run after `wake_up`, and its queue; None ends the thread.
        self.job: tuple[OwnerQueue, Job] | None = None
        #: The queue of the job that runs.
        self.queue: OwnerQueue | None = None
        #: The time at which the job or its current step began; 0 while there is none.
        self.step_began = 0.0
        self.replaced = False


class ThreadUsage(NamedTuple):
    """The threads of a pool: how many it wants, how many run a job, and how many of these are stuck in a disk call."""

    size: int
    busy: int
    stuck: int
