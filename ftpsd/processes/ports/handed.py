"""Data connections that the supervisor has accepted, in a worker: DataConnection, serve_ports."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import cast

from attrs import frozen
from twisted.internet.defer import Deferred

from ftpsd.data.passive.peers import Origin
from ftpsd.data.passive.shared_ports import SharedPorts
from ftpsd.system.link import Link


@frozen
class DataConnection:
    """A data connection: what the worker must know beside the socket."""

    port: int
    origin: Origin

    def message(self) -> object:
        """Return the connection as JSON. Unlike that of a control connection, it is a mapping."""
        return {"port": self.port, "client": str(self.origin[0]), "proxied": self.origin[1]}

    @classmethod
    def from_message(cls, message: Mapping[str, object]) -> DataConnection:
        """Return the connection that `message` has encoded."""
        return cls(
            cast(int, message["port"]), (ipaddress.ip_address(cast(str, message["client"])), bool(message["proxied"]))
        )


def serve_ports(link: Link, ports: SharedPorts) -> None:
    """Answer the supervisor, in a worker."""

    def waits(message: object) -> bool:
        arrived = _from(message)
        return ports.waits(arrived.port, arrived.origin)

    def resumes(message: object, hello: str) -> Deferred[bool]:
        arrived = _from(message)
        return ports.resumes(arrived.port, arrived.origin, bytes.fromhex(hello))

    def doubt(message: object, wants_tls: bool) -> None:
        arrived = _from(message)
        ports.doubt(arrived.port, arrived.origin, wants_tls)

    link.serve("ports.waits", waits)
    link.serve("ports.resumes", resumes)
    link.serve("ports.doubt", doubt)


def _from(message: object) -> DataConnection:
    return DataConnection.from_message(cast(Mapping[str, object], message))
