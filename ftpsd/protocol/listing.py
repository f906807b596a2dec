"""The formats of directory entries: lines of `ls -l`, and facts (RFC 3659 section 7)."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import NamedTuple

from ftpsd.protocol.permissions import PERMISSIONS

#: All facts that are supported, in the order of the reply.
FACTS = ("type", "size", "modify", "perm", "unique", "UNIX.mode", "X.incomplete")


class Entry(NamedTuple):
    """One name in a directory. `link` is the target of a symbolic link, for LIST.

    A link to something within the root has the mode, size, time and identity of its target, and `is_link` is True. A
    link that is broken or leads out of the root has its own (`stat.S_ISLNK(mode)`).
    """

    name: str
    mode: int
    size: int
    modified: float
    device: int
    inode: int
    links: int = 1
    is_link: bool = False
    link: str = ""
    #: Whether this is the part file of an upload that was cut and can be resumed.
    incomplete: bool = False

    @property
    def is_directory(self) -> bool:
        """Whether a client may change into it."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether a client may retrieve it."""
        return stat.S_ISREG(self.mode) and not self.incomplete


def time_value(seconds: float) -> str:
    """Return seconds since 1970 as `YYYYMMDDHHMMSS` in UTC (RFC 3659 section 2.3), without the fraction."""
    minute, second = divmod(int(seconds // 1), 60)
    value = _minute_value(minute)
    return f"{value}{second:02d}" if value else "19700101000000"


@lru_cache(maxsize=4096)
def _minute_value(minute: int) -> str:
    """Return `YYYYMMDDHHMM`, or "" if the year does not have four digits: a damaged inode must not break a listing."""
    try:
        moment = time.gmtime(minute * 60)
    except (ValueError, OverflowError, OSError):
        return ""
    return f"{moment.tm_year:04d}" + time.strftime("%m%d%H%M", moment) if 1 <= moment.tm_year <= 9999 else ""


def shown(name: str) -> str:
    """Return a name for a listing. CR and LF, which end a line in each format, become question marks."""
    return name.replace("\r", "?").replace("\n", "?")


_LINK = stat.S_IFLNK | 0o777

_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"


class LongFormat:
    """The format of `ls -l`, with times in UTC. Modes and dates are cached, since most entries share them."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._dates: dict[float, str] = {}
        self._modes: dict[int, str] = {}

    def line(self, entry: Entry) -> str:
        """Return the line of an entry, without its end."""
        name, mode, size, modified, _, _, links, is_link, link, _ = entry
        kind = _LINK if is_link else mode
        letters = self._modes.get(kind) or self._modes.setdefault(kind, stat.filemode(kind))
        minute = modified // 60
        date = self._dates.get(minute) or self._remember(minute)
        if "\n" in name or "\r" in name:
            name = shown(name)
        if link:
            name += f" -> {shown(link)}"
        return "%s %3d ftp      ftp      %12d %s %s" % (letters, links, size, date, name)  # noqa: UP031 - faster

    def _remember(self, minute: float) -> str:
        if len(self._dates) > 10_000:
            self._dates.clear()
        date = self._dates[minute] = self._date(int(minute) * 60)
        return date

    def _date(self, seconds: int) -> str:
        try:
            moment = time.gmtime(seconds)
        except (ValueError, OverflowError, OSError):
            seconds, moment = 0, time.gmtime(0)
        # strftime would use the locale for the month.
        month = _MONTHS[3 * moment.tm_mon - 3 : 3 * moment.tm_mon]
        if -86_400 < self._now - seconds < 180 * 86_400:
            return f"{month} {moment.tm_mday:2d} {moment.tm_hour:02d}:{moment.tm_min:02d}"
        return f"{month} {moment.tm_mday:2d}  {moment.tm_year:4d}"


@lru_cache(maxsize=256)
def permission_fact(kind: int, here: frozenset[str]) -> str:
    """Return the letters of the fact `perm` (RFC 3659 section 7.5.5).

    `kind` is the type of the entry (`stat.S_IFMT`, or `INCOMPLETE`), `here` the permissions that the user has there.
    """
    letters = _LETTERS.get(kind, _FOR_OTHERS)
    return "".join(letter for letter, needed in letters.items() if here & needed)


_ANY = frozenset(PERMISSIONS)
_FOR_DIRECTORIES = {
    "c": {"upload"},
    "d": {"rmdir"},
    "e": _ANY,
    "f": {"rename"},
    "l": {"list"},
    "m": {"mkdir"},
    "p": {"delete"},
}
_FOR_FILES = {"a": {"append"}, "d": {"delete"}, "f": {"rename"}, "r": {"download"}, "w": {"overwrite"}}
_FOR_INCOMPLETE = {"a": {"upload"}, "d": {"delete"}, "w": {"upload"}}
_FOR_OTHERS = {"d": {"delete"}, "f": {"rename"}}

#: The kind of an upload that was cut. No file type has this number.
INCOMPLETE = 0

_LETTERS: dict[int, Mapping[str, AbstractSet[str]]] = {
    stat.S_IFDIR: _FOR_DIRECTORIES,
    stat.S_IFREG: _FOR_FILES,
    INCOMPLETE: _FOR_INCOMPLETE,
}


class MachineFormat:
    """The format of MLST and MLSD, with the chosen facts. `here` returns the permissions that hold at an entry."""

    def __init__(self, chosen: frozenset[str], here: Callable[[Entry], frozenset[str]]) -> None:
        self._chosen = [fact in chosen for fact in FACTS]
        self._here = here

    def line(self, entry: Entry, name: str | None = None) -> str:
        """Return `fact=value;…; name` for an entry, with `name` in place of its own."""
        with_type, with_size, with_time, with_permissions, with_identity, with_mode, with_state = self._chosen
        mode, format_bits = entry.mode, stat.S_IFMT(entry.mode)
        facts = ""
        if with_type:
            facts = f"type={_KINDS.get(format_bits, 'OS.unix=other')};"
        if with_size and format_bits == stat.S_IFREG:
            facts += f"size={entry.size};"
        if with_time:
            facts += f"modify={time_value(entry.modified)};"
        if with_permissions:
            kind_here = INCOMPLETE if entry.incomplete else format_bits
            facts += f"perm={permission_fact(kind_here, self._here(entry))};"
        if with_identity:
            facts += f"unique={entry.device:x}U{entry.inode:x};"
        if with_mode:
            facts += f"UNIX.mode={mode & 0o7777:04o};"
        if with_state and entry.incomplete:
            facts += "X.incomplete=1;"
        return f"{facts} {shown(entry.name if name is None else name)}"


_KINDS = {stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "OS.unix=slink"}
