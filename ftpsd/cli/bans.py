"""`ftpsd bans`: list and lift bans in the state file, whether or not the daemon runs."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.limits.bans import tables
from ftpsd.limits.bans.ban_list import stored_name
from ftpsd.system.state import FILE, LaterRelease, State, directory

#: Where ftpsd.service has its state: a shell does not know systemd's $STATE_DIRECTORY.
SERVICE = Path("/var/lib/ftpsd-state")


class NoState(Exception):
    """The state of the daemon cannot be reached; the text says why."""


def show(configuration: str, as_json: bool = False) -> int:
    """Print the bans in effect, one in each line or as a JSON array; return the exit status."""
    now = time.time()
    try:
        with _state(configuration) as state:
            bans = tables.current(state, now)
    except (InvalidConfiguration, NoState) as error:
        return _fail(error)
    if as_json:
        found = [{"kind": kind, "subject": stored_name(subject), "until": until} for kind, subject, until in bans]
        print(json.dumps(found, indent=2))
        return 0
    for kind, subject, until in bans:
        print(f"{kind:8} {stored_name(subject):40} {_end(until, now)}")
    if not bans:
        print("Nobody is banned.", file=sys.stderr)
    return 0


def _end(until: float, now: float) -> str:
    try:
        return f"until {datetime.fromtimestamp(until).isoformat(' ', 'seconds')}, for {until - now:.0f} s"
    except (ValueError, OverflowError, OSError):
        return "for ever"  # no calendar goes as far


def lift(configuration: str, whom: str | None) -> int:
    """Lift the bans of an address or a user, or all with None; return the exit status."""
    try:
        with _state(configuration) as state:
            lifted = tables.lift(state, whom)
    except (InvalidConfiguration, NoState) as error:
        return _fail(error)
    if not lifted:
        return _fail(f"{stored_name(whom)} is not banned" if whom else "nobody is banned")
    print(f"{lifted} lifted.")
    return 0


def _fail(why: object) -> int:
    """Print why; return 3 if the state cannot be reached, and 1 for any other failure."""
    print(f"ftpsd bans: {why}", file=sys.stderr)
    return 3 if isinstance(why, NoState) else 1


@contextmanager
def _state(configuration: str) -> Iterator[State]:
    place = directory(load.load_settings(configuration).state)
    if place is None and os.path.abspath(configuration) == load.DEFAULT:
        place = SERVICE
    if place is None:
        raise NoState("the daemon keeps its bans in memory only: set state.directory in ftpsd.yaml")
    path = place / FILE
    try:
        _become_owner(path)
        with closing(State(path)) as state:
            yield state
    except FileNotFoundError:
        raise NoState(f"there is no {path}: no daemon with this configuration has run yet") from None
    except (OSError, sqlite3.Error, LaterRelease) as error:
        raise NoState(f"{path} cannot be used: {error}") from None


def _become_owner(path: Path) -> None:
    """Root becomes the owner of the directory, or of the file where the directory is root's own: nothing that is made
    beside the file is in the daemon's way, and a link that is laid there leads nowhere that its owner could not go."""
    owner, file = os.stat(path.parent), os.lstat(path)
    if not stat.S_ISREG(file.st_mode):
        raise NoState(f"{path} is no regular file: whoever may write to {path.parent} has put something else there")
    if os.geteuid() == 0:
        owner = owner if owner.st_uid else file
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
