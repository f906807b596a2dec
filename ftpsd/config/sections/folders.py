"""The settings of a folder: a directory from elsewhere in the tree of users."""

from __future__ import annotations

from attrs import Factory, frozen

from ftpsd.config.sections.quota import QuotaSettings
from ftpsd.protocol.permissions import PROFILES


@frozen
class FolderSettings:
    """A folder. Its key is the path at which users see it."""

    #: The directory. A relative path is relative to the directory of `users.yaml`. In a store: where it is there. In
    #: settings that were loaded, it is a place (see `sections.storage`).
    path: str
    #: The store in which the folder is; None: it is a directory of this machine.
    storage: str | None = None
    #: None: those of the directory in which the folder appears. Otherwise a user's `paths` in it only take away.
    permissions: frozenset[str] | None = None
    #: The maximum size of what the folder holds, for all users together.
    quota: QuotaSettings = Factory(QuotaSettings)

    @property
    def is_written(self) -> bool:
        """Whether its permissions let users change anything in it."""
        return self.permissions is None or not self.permissions <= PROFILES["read-only"]
