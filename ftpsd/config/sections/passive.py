"""Passive ports that all sessions share."""

from __future__ import annotations

from typing import Literal

from attrs import frozen


@frozen
class SharedPassiveSettings:
    """All sessions announce the same ports. A connection is given to its session by its address and its TLS session."""

    #: What happens to a connection that may belong to several sessions: the one that waits longest gets it, or none.
    ambiguous: Literal["refuse", "oldest"] = "refuse"
