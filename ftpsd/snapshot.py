"""The configuration snapshot: the result of one configuration load. A session keeps the one it began with."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from twisted.cred.portal import Portal

from ftpsd.config.settings import Settings
from ftpsd.data.channel import DataPlane
from ftpsd.limits.ledger import Ledger
from ftpsd.protocol.session import Policy
from ftpsd.system.tls.contexts import ContextMaker


@frozen
class Snapshot:
    """The settings of one load, and the objects made of them. A reload makes a new snapshot, or keeps the old one."""

    settings: Settings
    portal: Portal
    contexts: ContextMaker
    data: DataPlane
    policy: Policy
    ledger: Ledger
    #: Returns the POSIX time, which may jump. Durations are measured with the reactor's clock instead.
    now: Callable[[], float]
    #: Returns whether the log may show a user name.
    shows: Callable[[str], bool] = lambda name: True


def policy_of(settings: Settings) -> Policy:
    """Return the part of the settings that every session follows."""
    return Policy(
        login_needs_tls=settings.tls.require.login,
        data_needs_tls=settings.tls.require.data,
        active=settings.active.enabled,
        foreign_networks=settings.foreign_networks,
        login_failures=settings.limits.login_failures,
        idle=settings.timeouts.idle,
    )
