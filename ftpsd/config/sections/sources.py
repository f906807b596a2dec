"""The entries of `users.sources`: where users come from. `type` says which class an entry has.

A new type is a class here, its row in SOURCES, and its row in `ftpsd.config.sources.MODULES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from attrs import frozen


@frozen(kw_only=True)
class SourceSettings:
    """One entry of `users.sources`."""

    type: str

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that the source reads when it connects, such as certificates. The sandbox permits it to read them."""
        return ()

    @property
    def secret_files(self) -> tuple[Path, ...]:
        """Files with one secret each, which are read when the configuration is loaded."""
        return ()

    @property
    def directories(self) -> tuple[Path, ...]:
        """Directories in which the source writes."""
        return ()


@frozen(kw_only=True)
class YamlSource(SourceSettings):
    """`users.file` and `users.directory`. Without this entry they are asked first."""

    type: Literal["yaml"]


@frozen(kw_only=True)
class RemoteSource(SourceSettings):
    """A source that is asked in threads of its own. `timeout` is in seconds, and holds for each question."""

    timeout: int = 5
    concurrency: int = 4


#: The classes of the entries, by their `type`.
SOURCES: Mapping[str, type[SourceSettings]] = {
    "yaml": YamlSource,
}


@frozen
class CacheSettings:
    """For how many seconds a login is remembered: to verify its password fast, and while its source is down."""

    seconds: int = 300
    stale_seconds: int = 3600
