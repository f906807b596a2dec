"""Give each disk call of a configuration load a deadline.

A disk call that hangs (NFS, a dying disk) cannot be ended. So a load runs in a thread of its own, and another thread
watches its calls. The load as a whole has no deadline: it may have to look at 100,000 homes.

A busy machine is no disk that does not respond. So the watching thread counts its own looks at the call instead of
time, in which this process may have been stopped. A call that uses the processor does not wait for a disk, and its
deadline begins again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ftpsd.config.faults import InvalidConfiguration, Key
from ftpsd.config.yaml import Document
from ftpsd.system.reactor import CallsFromThreads

T = TypeVar("T")

#: Seconds in which a disk call must return. After a failed start systemd starts the daemon again, and does not give up.
DEADLINE = 15

#: Seconds between two looks.
INTERVAL = 1

#: Seconds of processor time that tell a call at work from one that waits for a disk. NFS uses some microseconds for
#: each attempt to reach the server. A thread that has 0.02 % of a processor uses more than this until the deadline.
WORKING = 0.002


class DiskWatch:
    """The disk call that a load is waiting for. The thread of the load sets it, and another thread checks it."""

    def __init__(self) -> None:
        self._call: tuple[Document, Key, Path | str] | None = None
        #: The call at the last look, how often it was looked at since it last made progress, and its time then.
        self._seen: tuple[Document, Key, Path | str] | None = None
        self._looks = 0
        self._used = 0.0
        self._abandoned = False

    def begin(self, document: Document, key: Key, path: Path | str) -> None:
        """Note a call to the disk of a path that a key of a document names."""
        if self._abandoned:
            raise SystemExit  # nobody waits for this load any more: its thread ends
        self._call = (document, key, path)

    def end(self) -> None:
        """Note that the call has returned."""
        self._call = None

    def check(self, used: float) -> None:
        """Look at the call, once in `INTERVAL` seconds. `used` is the processor time of its thread.

        Raises InvalidConfiguration if the call is past its deadline.
        """
        call = self._call
        if call is None or call is not self._seen or used - self._used >= WORKING:
            self._seen, self._looks, self._used = call, 0, used
            return
        self._looks += 1
        if self._looks * INTERVAL > DEADLINE:
            document, key, path = call
            other = "remove the user" if key[:1] == ("users",) else "name another path"
            self._abandoned = True
            document.fault(key, f"the disk of {path} does not respond", f"Wait for it, or {other}.")
            raise InvalidConfiguration(document.faults)


def watched(function: Callable[[DiskWatch], T]) -> T:
    """Call a function in a thread of its own, and return its result.

    Raises InvalidConfiguration if a disk call that the function has noted does not return in time.
    """
    watch = DiskWatch()
    clocks: list[int] = []
    result: list[T] = []
    error: list[BaseException] = []

    def run() -> None:
        clocks.append(time.pthread_getcpuclockid(threading.get_ident()))
        try:
            result.append(function(watch))
        except BaseException as raised:
            error.append(raised)

    thread = threading.Thread(target=run, name="configuration", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(INTERVAL)
        for clock in clocks:
            watch.check(_used(clock))
    if error:
        raise error[0]
    return result[0]


def _used(clock: int) -> float:
    """Return the processor time of a thread; 0 if it has ended."""
    try:
        return time.clock_gettime(clock)
    except OSError:
        return 0.0


def in_own_thread(reactor: CallsFromThreads, function: Callable[[], T]) -> Deferred[T]:
    """Call a function in a new thread; return a Deferred of its result. It may take any time, and no worker thread."""
    answer: Deferred[T] = Deferred()

    def run() -> None:
        try:
            reactor.callFromThread(answer.callback, function())
        except BaseException:
            reactor.callFromThread(answer.errback, Failure())

    threading.Thread(target=run, name="reload", daemon=True).start()
    return answer
