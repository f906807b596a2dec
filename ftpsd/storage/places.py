"""Homes and folders wherever they are: each place leads to the storage that has it (see `sections.storage`)."""

from __future__ import annotations

from collections.abc import Awaitable, Container, Hashable, Iterator, Mapping

from ftpsd.config.sections.storage import is_in_store, parse_place
from ftpsd.events.types import SessionInfo
from ftpsd.limits.home_counts import Amount
from ftpsd.storage.backend import Backend, Files, HomeMeter, Mount, User, mount_of_home


class PlacedBackend:
    """The backend of all homes and folders: `local` has the directories of this machine, `stores` the others by name.

    Every place of a configuration that was loaded is in one of them.
    """

    def __init__(self, local: Backend, stores: Mapping[str, Backend]) -> None:
        self._local = local
        self._stores = stores

    def open(self, user: User, session: SessionInfo, mount: Mount | None = None) -> Awaitable[Files]:
        """Return the files of a home or folder for one session (see `Backend`)."""
        mount = mount or mount_of_home(user)
        backend = self._stores[parse_place(mount.place).store] if is_in_store(mount.place) else self._local
        return backend.open(user, session, mount)


class PlacedMeter:
    """Measures all homes and folders (see `HomeMeter`)."""

    def __init__(self, local: HomeMeter, stores: HomeMeter) -> None:
        self._local = local
        self._stores = stores

    def _meter(self, home: str) -> HomeMeter:
        return self._stores if is_in_store(home) else self._local

    def exists(self, home: str) -> bool:
        """Return whether there is such a home."""
        return self._meter(home).exists(home)

    def amounts(self, home: str, charged: Container[Hashable]) -> Iterator[Amount]:
        """Yield what the home holds."""
        return self._meter(home).amounts(home, charged)
