"""Look system users up in the name service: SystemUsers."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SystemUser:
    """A user of the system who may log in if the password is right."""

    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class SystemUsers:
    """The users of the system from a number on. Users of services have lower ones; they and root are unknown here."""

    minimum_uid: int
    #: The directory below the home of the system that is the home for FTP; empty for the home itself.
    subdirectory: str = ""

    def find(self, name: str) -> SystemUser | None:
        """Return a user, with the name as the system spells it; None if there is none who may log in."""
        try:
            entry = pwd.getpwnam(name)
        except (KeyError, ValueError):
            return None
        if entry.pw_uid < max(1, self.minimum_uid):
            return None
        home = os.path.join(entry.pw_dir, self.subdirectory) if self.subdirectory else entry.pw_dir
        return SystemUser(entry.pw_name, entry.pw_uid, entry.pw_gid, home)
