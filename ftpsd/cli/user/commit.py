"""Make a change of a user's file: check it with the whole configuration, write it, and reload the daemon."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from ftpsd.cli.failure import CommandFailed
from ftpsd.cli.user.reloading import reload
from ftpsd.cli.user.users import Users
from ftpsd.config import load
from ftpsd.config.faults import Fault, InvalidConfiguration
from ftpsd.system.landlock import RESTART

#: Returns the new content of a file, None to remove it, for the old content. Called while the lock is held.
Edit = Callable[[bytes | None], bytes | None]


def commit(users: Users, name: str, edit: Edit, undo: Callable[[], None] = lambda: None) -> None:
    """Change the file of a user. Raises CommandFailed, and changes nothing, if that makes a fault.

    `undo` undoes what `edit` has done besides. The daemon has a sandbox and is another user, so it may find faults that
    this process cannot find.
    """
    with users.directory.locked():
        before = users.directory.read(name)
        try:
            after = edit(before)
            _check(users, name, after)
            _put(users, name, after)
        except BaseException:
            undo()
            raise
    if users.restart_first:
        return
    users.reload = reload(users.configuration)
    own = [fault for fault in users.reload.faults if fault.startswith(f"{users.directory.file(name)}:")]
    if not own:
        return
    if all(RESTART in fault for fault in own):
        users.restart_first = True
        users.notes.append(f"Run `systemctl restart ftpsd` before the next reload: {own[0]}")
        return
    with users.directory.locked():
        if users.directory.read(name) == after:
            _put(users, name, before)
            undo()
    reload(users.configuration)
    report(own)
    raise CommandFailed("the daemon cannot use it, so nothing was changed")


def _put(users: Users, name: str, data: bytes | None) -> None:
    if data is not None:
        users.directory.write(name, data)
    elif users.directory.read(name) is not None:
        users.directory.remove(name)


def _check(users: Users, name: str, after: bytes | None) -> None:
    """Load the whole configuration with the new file. Faults that it has without the change do not prevent it."""
    found = _faults(users.configuration, {name: after})
    if not found:
        return
    known = {_identity(fault) for fault in _faults(users.configuration, {})}
    new = [fault for fault in found if _identity(fault) not in known]
    if new:
        report(new)
        raise CommandFailed("nothing was changed")
    users.notes.append("The configuration has other faults, so the daemon cannot load it: run `ftpsd check`.")


def _faults(configuration: str, changes: dict[str, bytes | None]) -> list[Fault]:
    try:
        load.load(configuration, changes)
    except InvalidConfiguration as error:
        return error.faults
    return []


def _identity(fault: Fault) -> tuple[str, str, str]:
    """Return what stays the same when the lines above a fault change."""
    return fault.file, fault.key, fault.problem


def report(faults: Iterable[object]) -> None:
    """Print faults as `ftpsd check` does."""
    for fault in faults:
        print(fault, file=sys.stderr)
