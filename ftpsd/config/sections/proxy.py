"""The PROXY protocol of a listener behind a load balancer."""

from __future__ import annotations

from attrs import frozen

from ftpsd.protocol.login_rules import Network


@frozen
class ProxySettings:
    """Connections begin with a header that names the client. Only proxies in the `trusted` networks may connect."""

    trusted: tuple[Network, ...]
