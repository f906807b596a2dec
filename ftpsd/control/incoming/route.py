"""How a control connection has come: Route."""

from __future__ import annotations

from attrs import frozen

from ftpsd.protocol.addresses import Address
from ftpsd.protocol.login_rules import Network


@frozen
class Route:
    """The client of a control connection, and what a proxy in between has said about it."""

    client: Address
    #: The address that the client has connected to. None: the one of this machine, since there is no proxy.
    server: Address | None = None
    #: The networks of the proxies through which the session's passive connections come. None: they come directly.
    proxies: tuple[Network, ...] | None = None
    #: Whether a proxy connects on its own behalf, to see whether the daemon works. The log does not show that.
    is_check: bool = False
