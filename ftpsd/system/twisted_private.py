"""Private names of Twisted that the daemon uses, and what it does when a release no longer has one of them.

`tests/test_twisted_private.py` checks at both ends of the version range that the names exist.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from typing import cast

from twisted.internet import abstract, tcp
from twisted.internet.protocol import Factory
from twisted.logger import FileLogObserver, ILogObserver, LogEvent, Logger, globalLogPublisher
from twisted.scripts import _twistd_unix

from ftpsd.system.reactor import ListeningPort, Reactor

log = Logger(namespace="ftpsd")


def log_observer(twistd: Mapping[str, object]) -> FileLogObserver | None:
    """Return the observer that twistd would make for its options: to a file or to standard output.

    None if this release makes it in another way: twistd then makes its own, and writing a line takes longer.
    """
    make = getattr(_twistd_unix.UnixAppLogger(twistd), "_getLogObserver", None)
    observer = make() if make is not None else None
    return observer if isinstance(observer, FileLogObserver) else None


def replace_observers(observer: Callable[[LogEvent], None]) -> None:
    """Let one function get all log events of this process, in place of the observers that its parent process had.

    If this release does not tell who these are, they stay, and lines appear twice.
    """
    for each in list(getattr(globalLogPublisher, "_observers", ())):
        globalLogPublisher.removeObserver(each)
    globalLogPublisher.addObserver(cast(ILogObserver, observer))


def filter_observers(is_wanted: Callable[[LogEvent], bool]) -> None:
    """Let the observers of this process get the log events that are wanted, and no others.

    If this release does not tell who these are, they get all.
    """

    def pass_on(observer: Callable[[LogEvent], object], event: LogEvent) -> None:
        if is_wanted(event):
            observer(event)

    for each in list(getattr(globalLogPublisher, "_observers", ())):
        globalLogPublisher.removeObserver(each)
        globalLogPublisher.addObserver(cast(ILogObserver, partial(pass_on, each)))


def listen_on(port: type[tcp.Port], reactor: Reactor, descriptor: int, family: int, factory: Factory) -> ListeningPort:
    """Listen with a port of the given class on a socket that was bound before; it is copied.

    If this release of Twisted cannot do that, use its public function: a port of Twisted's own class, which accepts all
    waiting connections in one iteration of the reactor.
    """
    make = getattr(port, "_fromListeningDescriptor", None)
    if make is not None:
        listener: ListeningPort = make(reactor, descriptor, family, factory)
        listener.startListening()
        return listener
    log.warn(
        "this release of Twisted does not support a port class of our own: many connections at once delay sessions"
    )
    return reactor.adoptStreamPort(descriptor, family, factory)


def use_monotonic_clock(reactor: Reactor) -> None:
    """Let the timers of the reactor follow a clock that no one sets.

    Twisted's timers follow the time of day. When that is set (a machine that boots without a clock, a virtual one
    that was suspended) they would all fire at once, or none for hours. The reactor has no setting for this: an
    attribute hides its method `seconds`. A reactor that does not allow it keeps its clock, and the log says so.
    """
    if reactor.getDelayedCalls():
        return  # it would compare times of two clocks
    try:
        reactor.seconds = time.monotonic  # type: ignore[method-assign]
    except AttributeError:
        log.warn("the reactor uses the time of day for its timers: timeouts are wrong after the clock is set")


#: What `unsent` returns for a transport that has sent all bytes.
NOTHING_UNSENT: tuple[bytes, list[bytes]] = (b"", [])


def _never(transport: object) -> None:
    """The answer of a release without the buffers: never NOTHING_UNSENT."""


def _unsent() -> Callable[[object], object]:
    buffers = attrgetter("dataBuffer", "_tempDataBuffer")
    try:
        known = buffers(abstract.FileDescriptor(reactor=object())) == NOTHING_UNSENT  # type: ignore[arg-type]
    except AttributeError:
        known = False
    return buffers if known else _never


#: Returns the bytes that a transport has not sent. If this release keeps them elsewhere, it is never NOTHING_UNSENT,
#: and all bytes go through `transport.write`, which takes three more system calls for a reply.
unsent = _unsent()


def count_unsent(transport: object) -> int:
    """Return how many bytes a transport holds. 0 if this release keeps them elsewhere."""
    buffer, offset = getattr(transport, "dataBuffer", b""), getattr(transport, "offset", 0)
    return len(buffer) - int(offset) + int(getattr(transport, "_tempDataLen", 0))


def installed_reactor() -> Reactor:
    """Return the reactor, with a monotonic clock. It is imported late, since importing it installs it."""
    from twisted.internet import reactor

    installed = cast(Reactor, reactor)
    use_monotonic_clock(installed)
    return installed
