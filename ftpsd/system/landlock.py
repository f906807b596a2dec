"""Landlock (landlock(7)): the kernel limits a process to the files that it needs. Three system calls, through ctypes.

A rule cannot be removed. It holds for the thread that makes it, and for threads and programs that this thread starts
later. So the rules are made while the process has only one thread.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import threading
from collections.abc import Iterable
from enum import IntFlag

# These numbers are the same on every architecture but Alpha.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446

_GET_VERSION = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

#: The first usable version: Linux 5.19. Version 1 forbids every move from one directory to another.
_OLDEST = 2


class Access(IntFlag):
    """Rights on a file, or on all files below a directory (linux/landlock.h)."""

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
#: Everything except running programs and making or controlling devices. A rename needs the right to make such a file.
WRITE = (
    READ
    | (Access.WRITE_FILE | Access.TRUNCATE | Access.REFER | Access.REMOVE_DIR | Access.REMOVE_FILE)
    | (Access.MAKE_DIR | Access.MAKE_REG | Access.MAKE_SOCK | Access.MAKE_FIFO | Access.MAKE_SYM)
)
REMOVE = Access.REMOVE_FILE

_FOR_FILES = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV

#: A path, and the rights on it and on everything below.
Rule = tuple[str, Access]

#: The remedy for a file that cannot be read because `is_denied` is true.
RESTART = "Restart the daemon: its sandbox permits only the files that were configured when it started."


#: Whether this process opens homes of users. A supervisor does not: its workers have sandboxes of their own.
_opens_homes = True


class Unavailable(Exception):
    """Landlock cannot be used. The text is the reason."""


def abi() -> int:
    """Return the version of Landlock that the kernel has. Raises OSError if it has none."""
    return _call(_CREATE_RULESET, None, 0, _GET_VERSION)


def enter(rules: Iterable[Rule]) -> int:
    """Limit the process to these rules from now on. Return the version of Landlock (its ABI).

    Call `no_new_privileges` before. Paths that do not exist are ignored. Raises Unavailable, and then changes nothing.
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
    """Let no program that the process runs get more privileges, set-user-ID or not (prctl(2)).

    Does not fail: without it `enter` raises Unavailable.
    """
    _libc().prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))


def is_denied(path: str | os.PathLike[str]) -> bool:
    """Return whether a file or directory cannot be read although its permissions allow that."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        return os.access(path, os.R_OK, effective_ids=True)
    except OSError:
        pass
    return False


def open_no_homes() -> None:
    """Note that this process opens no homes of users, so that their access is not checked here."""
    global _opens_homes
    _opens_homes = False


def is_denied_home(path: str) -> bool:
    """Return whether this process cannot open a home or folder that it needs, as `is_denied` does."""
    return _opens_homes and is_denied(path)


def _version() -> int:
    if threading.active_count() > 1:
        raise Unavailable("other threads run already, and would not be limited")
    if sys.platform != "linux" or _is_deadly():
        raise Unavailable("this process may not use its system calls")
    try:
        version = abi()
    except OSError as error:
        raise Unavailable(f"the kernel does not offer it ({error.strerror})") from None
    if version < _OLDEST:
        raise Unavailable("the version of this kernel forbids every move of a file between directories")
    return version


def _is_deadly() -> bool:
    """Return whether a filter of system calls would kill the process: that of a systemd unit may not name Landlock."""
    child = os.fork()
    if child == 0:
        try:
            abi()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _known(version: int) -> Access:
    """Return the rights that this version knows. The kernel refuses others."""
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
    # ctypes passes a plain int to a variadic function as 32 bits.
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _checked(_libc().syscall(ctypes.c_long(number), *wide))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
