"""The configuration snapshot: the result of one configuration load.

A session keeps the one that it began with, but logs users in with the newest one.
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
    #: Returns the snapshot of the newest load, or None if only other processes have it. No function: that is this one.
    newest: Callable[[], Snapshot | None] | None = None

    @property
    def is_newest(self) -> bool:
        """Whether no later load is in effect."""
        return self.newest is None or self.newest() is self

    def for_login(self) -> Snapshot:
        """Return the newest snapshot, which has the users and passwords that count.

        Raises ConfigurationChanged if it has other settings or client certificates than this one. A session cannot take
        over all of them: its TLS handshake may be over, and no certificate was asked for that is required now. It is
        also raised if only other processes have the newest users.
        """
        newest = self if self.newest is None else self.newest()
        if newest is None:
            raise ConfigurationChanged
        if newest is not self and not (newest.settings == self.settings and newest.contexts.trusts(self.contexts)):
            raise ConfigurationChanged
        return newest


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
