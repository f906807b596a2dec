"""The private names of Twisted that the daemon uses: they are there, and without them the daemon works, too."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from twisted.application import app
from twisted.internet import abstract, tcp
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.scripts import _twistd_unix

import ftpsd
from ftpsd.system import twisted_private
from ftpsd.system.twisted_private import (
    NOTHING_UNSENT,
    count_unsent,
    listen_on,
    log_observer,
    unsent,
    use_monotonic_clock,
)


class OwnPort(tcp.Port):
    """A port of our own."""


class OwnReactor:
    """A reactor that listens in the public way only."""

    def __init__(self) -> None:
        self.readers: list[Any] = []
        self.adopted: list[tuple[Any, ...]] = []

    def addReader(self, reader: Any) -> None:
        """As the reactor's."""
        self.readers.append(reader)

    def adoptStreamPort(self, *arguments: Any) -> str:
        """As the reactor's."""
        self.adopted.append(arguments)
        return "a port of Twisted's"


def test_this_release_has_the_names() -> None:
    """Nothing falls back at this end of the version range."""
    assert hasattr(tcp.Port, "_fromListeningDescriptor")
    assert hasattr(_twistd_unix.UnixAppLogger, "_getLogObserver")
    assert unsent is not twisted_private._never
    transport = abstract.FileDescriptor(reactor=OwnReactor())  # type: ignore[arg-type]
    transport.connected = 1
    assert unsent(transport) == NOTHING_UNSENT
    transport._writeDisconnected = False
    transport.startWriting = lambda: None  # type: ignore[method-assign]
    transport.write(b"bytes")
    assert unsent(transport) != NOTHING_UNSENT
    assert count_unsent(transport) == 5
    transport.writeSomeData = lambda data: 2  # type: ignore[method-assign]
    transport.doWrite()
    assert count_unsent(transport) == 3


def test_no_other_module_uses_private_names() -> None:
    """The names stand in one module."""
    names = r"_getLogObserver|_fromListeningDescriptor|_tempData\w+|\bdataBuffer\b|\.seconds = |_twistd_unix"
    found = [path.stem for path in Path(ftpsd.__file__).parent.rglob("*.py") if re.search(names, path.read_text())]
    assert found == ["twisted_private"]


@pytest.mark.parametrize("known", [True, False], ids=["this release", "a release without the name"])
def test_a_bound_socket_is_listened_on(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port of our own class listens; one of Twisted's if that has become impossible."""
    if not known:
        monkeypatch.delattr(tcp.Port, "_fromListeningDescriptor")
    reactor, factory = OwnReactor(), Factory.forProtocol(Protocol)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        bound.setblocking(False)
        port: Any = listen_on(OwnPort, reactor, bound.fileno(), socket.AF_INET, factory)  # type: ignore[arg-type]
        if known:
            assert isinstance(port, OwnPort)
            assert reactor.readers == [port]
            assert port.getHost().port == bound.getsockname()[1]
            port.socket.close()
        else:
            assert port == "a port of Twisted's"
            assert reactor.adopted == [(bound.fileno(), socket.AF_INET, factory)]


@pytest.mark.parametrize("known", [True, False], ids=["this release", "a release without the name"])
def test_the_observer_of_twistd(known: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The observer is made for twistd's options; without the private name, twistd makes its own."""
    if not known:
        monkeypatch.delattr(_twistd_unix.UnixAppLogger, "_getLogObserver")
        monkeypatch.delattr(app.AppLogger, "_getLogObserver")
    options = {"logfile": str(tmp_path / "log"), "syslog": False, "nodaemon": True, "logger": None}
    assert (log_observer(options) is not None) == known


def test_a_release_without_the_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """All bytes go the ordinary way."""

    class Other:
        def __init__(self, reactor: object) -> None:
            pass

    monkeypatch.setattr(abstract, "FileDescriptor", Other)
    assert twisted_private._unsent()(Other(None)) != NOTHING_UNSENT


def test_the_clock_of_the_reactor() -> None:
    """The reactor gets the monotonic clock, unless calls wait by the old one or the reactor does not allow it."""

    class Fixed:
        __slots__ = ()
        seconds = staticmethod(lambda: 7.0)

        def getDelayedCalls(self) -> list[object]:
            return []

    reactor = Clock()
    use_monotonic_clock(reactor)  # type: ignore[arg-type]
    assert abs(reactor.seconds() - time.monotonic()) < 60
    waiting, fixed = Clock(), Fixed()
    waiting.callLater(1, lambda: None)
    use_monotonic_clock(waiting)  # type: ignore[arg-type]
    assert waiting.seconds() == 0
    use_monotonic_clock(fixed)  # type: ignore[arg-type]
    assert fixed.seconds() == 7
