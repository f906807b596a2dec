"""A transfer: drives the steps of a generator (see `endpoints.py`) in worker threads and the reactor.

A transfer whose step must wait keeps its thread for a moment if no other job needs it, since on a fast network the
socket is ready again immediately. Then it parks in the reactor. So a slow client costs no thread, and a fast one
no wake-ups of the reactor. Abort, deadlines and progress act between two steps.
"""

from __future__ import annotations

import select
import time
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.data.endpoints import READ, Closable, InReactor, Pause, Steps, Waitable, Wanted
from ftpsd.protocol.replies import Refusal
from ftpsd.system.jobs.job_lock import Busy
from ftpsd.system.jobs.job_queue import JobQueue
from ftpsd.system.presence import PatientCall
from ftpsd.system.reactor import DelayedCall, Reactor
from ftpsd.system.reactor_calls import AwaitedCall

log = Logger(namespace="ftpsd")

T = TypeVar("T")

#: Milliseconds for which a thread waits for a socket, or for the reactor, before the transfer gives it up.
MOMENT = 4

#: Seconds after an abort at which the client gets its reply, even if a disk call has not returned.
PATIENCE = 5


@implementer(IReadWriteDescriptor)
class Parking:
    """Waits in the reactor for what a step has yielded: READ, WRITE or a Pause. For the reactor thread.

    A subclass sets `_reactor` and `connection`, and has `_submit`, which is called when the wait is over.
    """

    _reactor: Reactor
    #: The network connection; None if there is none, or once the transfer has ended.
    connection: Waitable | None

    # Defaults in the class, so that a transfer that never parks does not pay for them.
    _parked = False
    _wanted: int | Pause = READ
    _timer: DelayedCall | None = None
    #: Whether `wake` was called while a thread took a step: that step's result may be out of date.
    _woken = False

    def _submit(self) -> None:
        raise NotImplementedError

    def _wait_in_reactor(self, wanted: int | Pause) -> None:
        self._wanted = wanted
        if self._woken:
            self._woken = False
            self._submit()
            return
        self._parked = True
        if isinstance(wanted, Pause):
            self._timer = self._reactor.callLater(wanted.seconds, self._unpark)
            if wanted.wake:
                self._reactor.addReader(self)
        elif wanted == READ:
            self._reactor.addReader(self)
        else:
            self._reactor.addWriter(self)

    def _unpark(self) -> None:
        """Take the next step, if the transfer is parked."""
        if not self._parked:
            return
        self._parked = False
        wanted = self._wanted
        if isinstance(wanted, Pause):
            if self._timer is not None and self._timer.active():
                self._timer.cancel()
            self._timer = None
            if wanted.wake:
                self._reactor.removeReader(self)
        elif wanted == READ:
            self._reactor.removeReader(self)
        else:
            self._reactor.removeWriter(self)
        self._submit()

    def wake(self) -> None:
        """Take a step now: something that the transfer waits for has changed."""
        self._woken = not self._parked
        self._unpark()

    def waits_for_peer(self) -> bool:
        """Return whether the transfer is parked, its peer has to act first, and has not done so yet."""
        wanted = self._wanted
        if not self._parked or (isinstance(wanted, Pause) and not wanted.wake):
            return False  # it runs, or waits for its rate limit
        return not self._poll(READ if isinstance(wanted, Pause) else wanted, 0)

    def _poll(self, wanted: int, milliseconds: float) -> bool:
        """Wait in this thread. Return whether the socket is ready."""
        poll = select.poll()
        poll.register(self.fileno(), wanted)
        return bool(poll.poll(milliseconds))

    def fileno(self) -> int:
        """Return the socket's descriptor, for the reactor's poll."""
        return self.connection.fileno() if self.connection is not None else -1

    def doRead(self) -> None:
        """The socket is ready."""
        self._unpark()

    doWrite = doRead

    def connectionLost(self, reason: Failure) -> None:
        """The reactor cannot poll the socket: the next step finds out why."""
        self._unpark()

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""
        return "data"


class Transfer(Parking, Generic[T]):
    """Takes all steps of one generator. Then closes what is `owned`, and fires `finished` with the result.

        queued    waits for a worker thread
        running   a worker thread takes steps
        parked    waits in the reactor for its socket, or for a time
        finished  `finished` has fired

        from        event                                                to
        created     start                                                queued
        queued      a thread is free                                     running
        running     the step yields None, and others need the thread     queued
        running     the step yields InReactor, and others need the
                    thread or the reactor needs more than a MOMENT       queued, by the reactor
        running     the step yields Busy                                 queued, when it gets the lock
        running     the step yields READ, WRITE or Pause, and others
                    need the thread or a MOMENT in it was not enough     parked
        parked      the socket is ready, the time is over, wake, abort   queued
        running     the generator returns or raises                      finished
        any         PATIENCE after an abort                              finished

    An abort raises its Refusal in the generator, at the step that is due. `owned` is closed in a worker thread, also
    if an abort comes before the first step; after PATIENCE, that happens when the disk call returns.
    """

    def __init__(
        self,
        reactor: Reactor,
        queue: JobQueue,
        steps: Steps[T],
        connection: Waitable | None,
        owned: Sequence[Closable],
    ) -> None:
        #: The result of the generator; Refusal or OSError if it failed.
        self.finished: Deferred[T] = Deferred()
        self.connection = connection
        self.owned = owned
        #: Steps in which the peer took or gave something.
        self.steps_taken = 0
        #: Whether it waits for storage over a network.
        self.waits_for_storage = False
        #: Whether it waits for a lock that other jobs have.
        self.waits_for_lock = False
        #: The time at which it waited for its peer first; None before.
        self.first_wait: float | None = None
        self._locks_taken = 0
        self._reactor = reactor
        self._queue = queue
        self._queued = False
        self._steps = steps
        #: The result, while what is `owned` is closed.
        self._result: T | Failure | None = None
        self._abort_reason: Refusal | None = None
        self._abandoning: DelayedCall | None = None

    @property
    def progress(self) -> tuple[int, int, float]:
        """A value that changes whenever the peer took or gave something, or the transfer got a lock.

        While the transfer is queued, it also changes when another job of the same owner ends a step, unless the
        transfer waits for a lock.
        """
        return self.steps_taken, self._locks_taken, self._queue.progress if self._queued else 0.0

    @property
    def is_open(self) -> bool:
        """Whether bytes of the file may move: the connection is open, or there is none."""
        return self.connection is None or self.connection.is_open

    def start(self) -> None:
        """Take the first step."""
        self._submit()

    def _submit(self) -> None:
        self._queued = True
        self._queue.submit(self._work)

    def abort(self, refusal: Refusal) -> None:
        """End the transfer with a refusal, whatever its state. A second abort does nothing."""
        if self._abort_reason is None:
            self._abort_reason = refusal
            if self.connection is not None:
                self.connection.interrupt()
            self._unpark()
            self._abandoning = PatientCall(self._reactor, PATIENCE, self._abandon)

    # --- in a worker thread ----------------------------------------------------------------------

    def _work(self) -> None:
        self._queued = False
        self._note_lock()
        result: T | Failure
        try:
            while not self._gives_up_thread(self._step()):
                pass
            return
        except StopIteration as end:
            result = end.value
        except BaseException as error:
            result = _failure(error, self._abort_reason)
        self._close(result)

    def _note_lock(self) -> None:
        """Note that the transfer waits for a lock no longer."""
        if self.waits_for_lock:
            self._locks_taken += 1
            self.waits_for_lock = False

    def _close(self, result: T | Failure) -> None:
        self._note_lock()
        self._result = result
        for each in self.owned:
            try:
                each.close()
            except Busy as busy:
                self.waits_for_lock = True
                self._queue.repeat(busy.lock, partial(self._close, result))
                return
            except BaseException as error:
                self._queue.call_in_reactor(_log_close_error, error)  # the result stands: an upload may be published
        self._queue.call_in_reactor(self._finish, result)

    def _step(self) -> Wanted:
        if self._abort_reason is not None:
            return self._steps.throw(self._abort_reason)  # not close(): an upload that is published ends well
        return next(self._steps)

    def _gives_up_thread(self, wanted: Wanted) -> bool:
        """Decide what follows a step. Return False if this thread is to take the next one now."""
        if isinstance(wanted, Pause):
            self.waits_for_storage = wanted.storage
        else:
            self.steps_taken += 1
            self.waits_for_storage = False
        crowded = self._queue.step_ended()
        if wanted is None:
            if crowded:
                self._submit()
            return crowded
        if isinstance(wanted, InReactor):
            call = AwaitedCall(wanted.call, self._submit)
            self._queue.call_in_reactor(call.make)
            return not call.wait(0 if crowded else MOMENT / 1000)
        if isinstance(wanted, Busy):
            self.waits_for_lock = True
            self._queue.submit_with(wanted.lock, self._work)
            return True
        if self.first_wait is None and not self.waits_for_storage:
            self.first_wait = self._reactor.seconds()
        if not crowded and self._wait_in_thread(wanted):
            return False
        self._queue.call_in_reactor(self._park, wanted)
        return True

    def _wait_in_thread(self, wanted: int | Pause) -> bool:
        """Wait for a MOMENT at most. Return whether the wait is over."""
        if not isinstance(wanted, Pause):
            return self._poll(wanted, MOMENT)
        milliseconds = wanted.seconds * 1000
        if wanted.wake:
            return self._poll(READ, min(milliseconds, MOMENT)) or milliseconds <= MOMENT
        if milliseconds > MOMENT:
            return False
        time.sleep(wanted.seconds)
        return True

    # --- in the reactor thread -------------------------------------------------------------------

    def _park(self, wanted: int | Pause) -> None:
        if self._abort_reason is not None:
            self._submit()
        else:
            self._wait_in_reactor(wanted)

    def _abandon(self) -> None:
        """Reply to an abort although the thread is in a disk call that does not return, or there is no lock."""
        if self._abort_reason is None:
            return
        reply = self._abort_reason.reply
        if not self.waits_for_lock:
            self._finish(Failure(Refusal(reply.code, f"{reply.text} Disk not responding.")))
        elif self._result is not None:
            self._finish(self._result)  # an upload may be published
        else:
            self._finish(Failure(Refusal(reply.code, *reply.lines)))

    def _finish(self, result: T | Failure) -> None:
        if self._abandoning is not None and self._abandoning.active():
            self._abandoning.cancel()
        self._result = None
        if not self.finished.called:
            self.connection = None
            self.finished.callback(result)


#: A transfer, whatever its result is.
AnyTransfer = Transfer[Any]


def _failure(error: BaseException, abort_reason: Refusal | None) -> Failure:
    """Return the reason that the client gets: the abort if there was one, not an error that the abort caused."""
    traceback.clear_frames(error.__traceback__)  # frees the buffers now
    reported = abort_reason or error
    if isinstance(reported, Refusal | OSError):
        reported.__traceback__ = None  # only an internal error needs one
    return Failure(reported)


def _log_close_error(error: BaseException) -> None:
    log.warn("a file or connection could not be closed: {error}", error=str(error))
