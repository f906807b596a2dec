"""What one reading of the configuration has made. Sessions keep the one that they began with."""

from __future__ import annotations

from attrs import frozen
from twisted.cred.portal import Portal

from ftpsd.data import Surroundings
from ftpsd.session import Policy
from ftpsd.settings import Settings
from ftpsd.tls import ContextMaker


@frozen
class Generation:
    """A complete set: a reload makes a new one or leaves the old one in use."""

    settings: Settings
    portal: Portal
    contexts: ContextMaker
    surroundings: Surroundings
    policy: Policy
    #: Whether commands that only tell something are logged too.
    verbose: bool = False
