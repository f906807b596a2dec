"""Landlock (landlock(7)): the kernel keeps a process to the files that it needs. Three system calls, by ctypes.

What was given up cannot be had back: rules hold for the thread that makes them and for all that it
starts from then on. So they are made when the process still has one thread.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import threading
from collections.abc import Iterable
from enum import IntFlag

# The same on every architecture that is younger than Alpha.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446

_ASK_VERSION = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

#: Linux 5.19. Before it nothing could be moved from one directory to another.
_OLDEST = 2


class Access(IntFlag):
    """What may be done with a file, or below a directory (linux/landlock.h)."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = Access.READ_FILE | Access.READ_DIR
#: All but to run programs, and to make and to drive devices. Renaming asks for the right to make the like.
WRITE = (
    READ
    | (Access.WRITE_FILE | Access.TRUNCATE | Access.REFER | Access.REMOVE_DIR | Access.REMOVE_FILE)
    | (Access.MAKE_DIR | Access.MAKE_REG | Access.MAKE_SOCK | Access.MAKE_FIFO | Access.MAKE_SYM)
)
REMOVE = Access.REMOVE_FILE

_FOR_FILES = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV

#: A path, and what may be done there and below.
Rule = tuple[str, Access]

#: What to write behind the fault of a file for which `shut_out` is true.
RESTART = "Restart the daemon: what its sandbox lets it reach was settled at its start."


class Unavailable(Exception):
    """Landlock cannot be used here; says why."""


def abi() -> int:
    """The version of Landlock that the kernel offers; OSError says why it offers none."""
    return _call(_CREATE_RULESET, None, 0, _ASK_VERSION)


def enter(rules: Iterable[Rule]) -> int:
    """Keeps the process to these rules from now on; the version of Landlock (its ABI) that does so.

    Wants `no_new_privileges` before. Paths that are not there are passed over. With `Unavailable`
    nothing has changed.
    """
    version = _version()
    handled = _known(version)
    try:
        ruleset = _call(_CREATE_RULESET, struct.pack("=Q", handled), 8, 0)
        try:
            for path, access in rules:
                _allow(ruleset, path, access & handled)
            _call(_RESTRICT_SELF, ruleset, 0)
        finally:
            os.close(ruleset)
    except OSError as error:
        raise Unavailable(f"the kernel refuses ({error.strerror})") from None
    return version


def no_new_privileges() -> None:
    """From now on no program that is run, setuid or not, gives the process more than it has.

    Where even that is refused, `enter` will say so.
    """
    _libc().prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))


def shut_out(path: str | os.PathLike[str]) -> bool:
    """Whether a file or directory that its permissions let us read is kept from us all the same."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        return os.access(path, os.R_OK, effective_ids=True)
    except OSError:
        pass
    return False


def _version() -> int:
    if threading.active_count() > 1:
        raise Unavailable("threads run already that it would not hold")
    if sys.platform != "linux" or _is_deadly():
        raise Unavailable("this process may not ask for it")
    try:
        version = abi()
    except OSError as error:
        raise Unavailable(f"the kernel does not offer it ({error.strerror})") from None
    if version < _OLDEST:
        raise Unavailable("this kernel's first version would forbid to move files between directories")
    return version


def _is_deadly() -> bool:
    """Whether a filter of system calls kills who asks: that of a systemd unit does, where it does not name Landlock."""
    child = os.fork()
    if child == 0:
        try:
            abi()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _known(version: int) -> Access:
    """The rights that this version of the kernel knows; it refuses others."""
    later = {Access.TRUNCATE: 3, Access.IOCTL_DEV: 5}
    return Access(sum(each for each in Access if version >= later.get(each, 0)))


def _allow(ruleset: int, path: str, access: Access) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        access &= access if os.path.isdir(path) else _FOR_FILES
        if access:
            _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", access, place), 0)
    finally:
        os.close(place)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: int | bytes | None) -> int:
    # Without their width, the numbers of a variadic call go out as 32 bits.
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _checked(_libc().syscall(ctypes.c_long(number), *wide))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
