"""The section `passwords`: what a new password hash costs."""

from __future__ import annotations

from attrs import frozen

from ftpsd.config.sections.values import Quantity

#: 46 MiB: with one iteration, the first choice of the OWASP Password Storage Cheat Sheet. 50 ms on the machine where
#: docs/performance.md was measured.
_MEMORY = Quantity(46 << 20)


@frozen
class PasswordSettings:
    """The parameters of argon2id for the hashes that commands make. Existing hashes have their own parameters."""

    memory: Quantity = _MEMORY
    iterations: int = 1
    parallelism: int = 1
