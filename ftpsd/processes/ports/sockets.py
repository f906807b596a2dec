"""Open the sockets of shared passive ports with a configuration, and close those that no session needs: DataSockets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.internet.error import CannotListenError

from ftpsd.config.faults import Fault, InvalidConfiguration
from ftpsd.config.settings import Settings
from ftpsd.control.incoming.listeners import open_beside
from ftpsd.data.passive.shared_sockets import SharedSockets
from ftpsd.processes.ports.interface import DataPorts
from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.reactor import Reactor

#: Seconds between two looks for sockets that no session needs any more.
INTERVAL = 30


class DataSockets:
    """The sockets of shared ports, in the process that accepts connections. `path` is that of the configuration."""

    def __init__(self, reactor: Reactor, path: str, ports: DataPorts) -> None:
        self._path = path
        self._ports = ports
        self._sockets = SharedSockets(reactor, open_beside, ports.arrived, ports.through_proxy)
        self._task = PeriodicTask(reactor, "closing shared ports", self.close_unused)
        ports.look = self._sockets.accept

    @contextmanager
    def opening(self, settings: Settings) -> Iterator[None]:
        """Open those of a configuration. If something else fails, the new ones are closed again.

        Raises InvalidConfiguration if one cannot be opened.
        """
        try:
            self._sockets.open(settings)
            yield
        except CannotListenError as error:
            text = f"cannot listen on {error.interface} port {error.port}: {error.socketError}"
            remedy = "Choose another port, or stop the program that uses it."
            raise InvalidConfiguration([Fault(self._path, 0, "passive.ports", text, remedy)]) from None
        except InvalidConfiguration:
            self.close_unused()
            raise

    def start(self) -> None:
        """Look for sockets that no session needs any more, from now on."""
        self._task.start(INTERVAL, now=False)

    def close_unused(self) -> None:
        """Close the sockets that neither the configuration nor a session needs."""
        self._sockets.keep(self._ports.keys)

    def close(self) -> None:
        """Close all sockets."""
        self._task.stop()
        self._sockets.close()
