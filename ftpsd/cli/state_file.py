"""The state file of a daemon, whether or not it runs: open_state_file."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ftpsd.cli.failure import CommandFailed, Unreachable
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.system.state import FILE, LaterRelease, State, directory

#: The state directory of ftpsd.service. systemd passes it to the daemon in $STATE_DIRECTORY, which no shell has.
SERVICE = Path("/var/lib/ftpsd-state")


class InMemory(Unreachable):
    """The daemon has no state directory."""


@contextmanager
def open_state_file(configuration: str) -> Iterator[State]:
    """Open the state file of a daemon. Root becomes the owner of the file, and remains it.

    Raises CommandFailed for a configuration with faults, and Unreachable.
    """
    try:
        place = directory(load.load_settings(configuration).state)
    except InvalidConfiguration as error:
        raise CommandFailed(str(error)) from None
    if place is None and os.path.abspath(configuration) == load.DEFAULT:
        place = SERVICE
    if place is None:
        raise InMemory("the daemon keeps its bans in memory only: set state.directory in ftpsd.yaml")
    path = place / FILE
    try:
        _become_owner(path)
        with closing(State(path)) as state:
            yield state
    except FileNotFoundError:
        raise Unreachable(f"{path} does not exist: no daemon has run with this configuration yet") from None
    except (OSError, sqlite3.Error, LaterRelease) as error:
        raise Unreachable(f"{path} cannot be used: {error}") from None


def _become_owner(path: Path) -> None:
    """Change from root to the owner of the state directory, or of the state file if root owns the directory.

    SQLite creates files beside the state file, which the daemon must be able to write. And if the owner has put a link
    in place of the file, root's permissions do not help them.
    """
    owner, file = os.stat(path.parent), os.lstat(path)
    if not stat.S_ISREG(file.st_mode):
        raise Unreachable(f"{path} is not a regular file: check who can write to {path.parent}")
    if os.geteuid() == 0:
        owner = owner if owner.st_uid else file
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
