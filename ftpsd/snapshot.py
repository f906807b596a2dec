"""What one reading of the configuration has made. Sessions keep the one that they began with."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from twisted.cred.portal import Portal

from ftpsd.config.settings import Settings
from ftpsd.data.channel import DataPlane
from ftpsd.limits.ledger import Ledger
from ftpsd.protocol.session import Policy
from ftpsd.system.tls import ContextMaker


@frozen
class Generation:
    """A complete set: a reload makes a new one or leaves the old one in use."""

    settings: Settings
    portal: Portal
    contexts: ContextMaker
    data: DataPlane
    policy: Policy
    ledger: Ledger
    #: The time of day (POSIX), which may jump; how much time has passed is for the reactor's clock to say.
    now: Callable[[], float]
    #: Whether the log may show a user's name.
    shows: Callable[[str], bool] = lambda name: True


def policy_of(settings: Settings) -> Policy:
    """Return what the settings say to every session."""
    return Policy(
        login_needs_tls=settings.tls.require.login,
        data_needs_tls=settings.tls.require.data,
        active=settings.active.enabled,
        foreign_networks=settings.foreign_networks,
        login_failures=settings.limits.login_failures,
        idle=settings.timeouts.idle,
    )
