"""The configuration snapshot: the result of one configuration load.

A session keeps the one that it began with, but logs users in with the newest users. So a snapshot holds no users: a
session of weeks would keep those of its time in memory, 100,000 of them for each load.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from twisted.cred.portal import Portal

from ftpsd.config.settings import Settings
from ftpsd.data.channel import DataPlane
from ftpsd.limits.ledger import Ledger
from ftpsd.protocol.replies import SessionEnd
from ftpsd.protocol.session import Policy
from ftpsd.system.tls.contexts import ContextMaker


class ConfigurationChanged(SessionEnd):
    """The session began with other settings, and cannot log in a user."""

    def __init__(self) -> None:
        super().__init__(421, "Configuration has changed: connect again.")


@frozen
class Snapshot:
    """The settings of one load, and the objects made of them, all but the users. A reload makes a new snapshot."""

    settings: Settings
    contexts: ContextMaker
    data: DataPlane
    policy: Policy
    ledger: Ledger
    #: Returns the POSIX time, which may jump. Durations are measured with the reactor's clock instead.
    now: Callable[[], float]
    #: Returns the newest load, or None if only other processes have it.
    newest: Callable[[], Newest | None]
    #: Returns whether the log may show a user name.
    shows: Callable[[str], bool] = lambda name: True

    def portal(self) -> Portal:
        """Return the portal of the newest load, which has the users and passwords that count.

        Raises ConfigurationChanged if that has other settings or client certificates than this one. A session cannot
        take over all of them: its TLS handshake may be over, and no certificate was asked for that is required now. It
        is also raised if only other processes have the newest users.
        """
        newest = self.newest()
        if newest is None:
            raise ConfigurationChanged
        other = newest.snapshot
        if other is not self and not (other.settings == self.settings and other.contexts.trusts(self.contexts)):
            raise ConfigurationChanged
        return newest.portal

    def is_newest(self, portal: Portal) -> bool:
        """Return whether a portal has the users of the newest load."""
        newest = self.newest()
        return newest is not None and newest.portal is portal


@frozen
class Newest:
    """The newest load: its snapshot, and the portal to its users."""

    snapshot: Snapshot
    portal: Portal


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
