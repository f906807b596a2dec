"""How much work each workload is: the full sizes, and the same made smaller for a quick run."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30
PIECE = 16 << 20
"""Bulk files are this many random bytes over and over, so a client can send one without reading a disk."""


@dataclass(frozen=True)
class Sizes:
    """Everything that `--scale` changes."""

    bulk: int = GIB
    small: int = 10 << 10
    files: int = 500
    logins: int = 200
    names: int = 20_000
    many_names: int = 100_000
    commands: int = 5_000
    idle: int = 500
    seconds: float = 10.0

    @classmethod
    def scaled(cls, scale: float) -> Sizes:
        """The full sizes times `scale`; the size of a small file is what it is."""
        full = cls()

        def some(count: int, least: int) -> int:
            return max(least, round(count * scale))

        return cls(
            bulk=some(full.bulk, 1 << 20),
            files=some(full.files, 16),
            logins=some(full.logins, 8),
            names=some(full.names, 200),
            many_names=some(full.many_names, 1_000),
            commands=some(full.commands, 100),
            idle=some(full.idle, 10),
            seconds=max(2.0, full.seconds * scale),
        )
