"""A lock that jobs hold while they call the disk. A job that finds it taken gives up its worker thread: JobLock.

A disk may take long for a call, and the jobs of many sessions may need the same lock. If their threads waited for it,
no thread would be left for users who do not need it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from threading import Lock, get_ident, local
from typing import ParamSpec, TypeVar

from ftpsd.protocol.replies import Refusal

T = TypeVar("T")
P = ParamSpec("P")

#: Steps of a job that needs locks. One that yields Busy lets the job wait for a lock (see `again`).
LockSteps = Generator["Busy | None", None, T]

#: The holder of a lock that is free, and of one that is promised.
_NOBODY, _PROMISED = 0, -1

_here = local()


def give_up_thread() -> None:
    """Note that this thread can give its job back: `WorkerThreads` catches Busy."""
    _here.gives_up = True


class Busy(Exception):
    """The job cannot continue without a lock that another one has. It has changed nothing, and is to be repeated."""

    def __init__(self, lock: JobLock) -> None:
        super().__init__("the names in this home are being changed")
        self.lock = lock


def waited_too_long(seconds: float) -> Refusal:
    """Return the reply to the command of a job that did not get a lock in time: it was not carried out."""
    return Refusal(
        451, f"Other sessions have been changing names in this home for {seconds:g} seconds: try again later."
    )


class JobLock:
    """A reentrant lock with a queue.

        free      nobody has it, and nobody waits
        held      by the thread `_holder`, `_depth` times
        promised  to whoever was first in the queue, until that one calls `accept`

    A subclass may lock something else as well: see `_enter`.
    """

    def __init__(self) -> None:
        #: Guards the next three.
        self._guard = Lock()
        self._holder = _NOBODY
        self._depth = 0
        self._waiting: deque[Callable[[], object]] = deque()

    def acquire(self, wait: bool = False) -> None:
        """Take the lock.

        Unless `wait` is true, raises Busy in a worker thread if it is taken. Other threads wait: they have nobody to
        give their job to.
        """
        if self._holder == get_ident():
            self._depth += 1
            return
        wait = wait or not getattr(_here, "gives_up", False)
        with self._guard:
            free = self._holder == _NOBODY
            if free:
                self._holder, self._depth = get_ident(), 1
            elif wait:
                woken = Lock()
                woken.acquire()
                self._waiting.append(woken.release)
        if not free:
            if not wait:
                raise Busy(self)
            woken.acquire()
            self._holder, self._depth = get_ident(), 1
        if not self._try_enter(wait):
            self._pass_on()
            raise Busy(self)

    def _try_enter(self, wait: bool) -> bool:
        try:
            return self._enter(wait)
        except BaseException:
            self._pass_on()
            raise

    def release(self) -> None:
        """Give the lock back. The first one in the queue gets it."""
        if self._depth > 1:
            self._depth -= 1
            return
        try:
            self._leave()
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        with self._guard:
            following = self._waiting.popleft() if self._waiting else None
            self._holder, self._depth = _NOBODY if following is None else _PROMISED, 0
        if following is not None:
            following()

    def promise(self, call: Callable[[], object]) -> None:
        """Make a call, in any thread, when the lock is promised to the caller, who must `accept` it then."""
        with self._guard:
            if self._holder != _NOBODY:
                self._waiting.append(call)
                return
            self._holder = _PROMISED
        call()

    def accept(self) -> bool:
        """Take the lock that is promised to the caller. Return False if that is to be tried again later."""
        self._holder, self._depth = get_ident(), 1
        try:
            entered = self._enter(False)
        except BaseException:
            self._pass_on()
            raise
        if not entered:
            self._holder, self._depth = _PROMISED, 0
        return entered

    @property
    def is_mine(self) -> bool:
        """Whether this thread has the lock."""
        return self._holder == get_ident()

    def must_wait(self) -> bool:
        """Return whether another process still keeps this one from what `_enter` locks. Does not block.

        Whoever the lock is promised to asks that again and again after `accept` has failed.
        """
        return False

    def _enter(self, wait: bool) -> bool:
        """Lock what else is to be locked. Return False if that is not possible now, and `wait` is false."""
        return True

    def _leave(self) -> None:
        """Unlock that."""


def repeated(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> LockSteps[T]:
    """Call a function that may raise Busy, as a part of a job in steps. Return what it returns."""
    call = partial(function, *arguments, **named)
    try:
        return call()
    except Busy as busy:
        return (yield from again(busy.lock, call))


def again(lock: JobLock, call: Callable[[], T]) -> LockSteps[T]:
    """Wait for a lock, then repeat a call that has raised Busy because of it. Return what the call returns."""
    while True:
        try:
            yield Busy(lock)  # the thread that takes the next step has the lock
            return call()
        except Busy as busy:
            following = busy.lock
        finally:
            if lock.is_mine:  # not if the steps are taken in a thread that waits for locks
                lock.release()
        lock = following
