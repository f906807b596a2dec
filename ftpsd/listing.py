"""One entry of a directory, as a line of `ls -l` and as MLSx facts (RFC 3659 section 7)."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from typing import NamedTuple

#: Every fact that we can tell, in the order in which we tell them.
FACTS = ("type", "size", "modify", "perm", "unique", "UNIX.mode")


class Entry(NamedTuple):
    """What is known of one name. `link` is where a symbolic link leads, for LIST to show.

    A link that leads to something within the root has that one's mode, size, time and identity, and
    `is_link` set; one that is broken or leads out has its own (`stat.S_ISLNK(mode)`).
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

    @property
    def is_directory(self) -> bool:
        """Whether a client may change into it."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether a client may retrieve it."""
        return stat.S_ISREG(self.mode)


def time_value(seconds: float) -> str:
    """POSIX seconds as a time-val in UTC (RFC 3659 2.3); fractions are dropped, as clients expect."""
    try:
        return time.strftime("%Y%m%d%H%M%S", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "19700101000000"  # a damaged inode must not fail a listing


def shown(name: str) -> str:
    """A name as it stands in a listing."""
    # CR and LF end the entry in every listing format: a name with them can only be hinted at.
    return name.replace("\r", "?").replace("\n", "?")


_LINK = stat.S_IFLNK | 0o777

_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"


class LongFormat:
    """Lines as `ls -l` prints them, times in UTC. What a line and its date look like is cached."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._dates: dict[float, str] = {}
        self._modes: dict[int, str] = {}

    def line(self, entry: Entry) -> str:
        """The line of one entry, without its end."""
        name, mode, size, modified, _, _, links, is_link, link = entry
        kind = _LINK if is_link else mode
        letters = self._modes.get(kind) or self._modes.setdefault(kind, stat.filemode(kind))
        minute = modified // 60
        date = self._dates.get(minute) or self._remember(minute)
        if "\n" in name or "\r" in name:
            name = shown(name)
        if link:
            name += f" -> {shown(link)}"
        return f"{letters} {links:3d} ftp      ftp      {size:12d} {date} {name}"

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
        # The months by hand: strftime would ask the locale.
        month = _MONTHS[3 * moment.tm_mon - 3 : 3 * moment.tm_mon]
        if -86_400 < self._now - seconds < 180 * 86_400:
            return f"{month} {moment.tm_mday:2d} {moment.tm_hour:02d}:{moment.tm_min:02d}"
        return f"{month} {moment.tm_mday:2d}  {moment.tm_year:4d}"


def permission_fact(entry: Entry, here: frozenset[str], within: frozenset[str]) -> str:
    """The letters of the fact `perm` (RFC 3659 7.5.5): what the user may do with this entry.

    `here` are the permissions that hold at the entry, `within` those that hold right below it.
    """
    letters = ""
    if entry.is_directory:
        table: tuple[tuple[str, bool], ...] = (
            ("c", "upload" in within),
            ("d", "rmdir" in here),
            ("e", bool(within)),
            ("f", "rename" in here),
            ("l", "list" in here),
            ("m", "mkdir" in within),
            ("p", "delete" in within),
        )
    else:
        table = (
            ("a", entry.is_file and "append" in here),
            ("d", "delete" in here),
            ("f", "rename" in here),
            ("r", entry.is_file and "download" in here),
            ("w", entry.is_file and "overwrite" in here),
        )
    for letter, allowed in table:
        letters += letter if allowed else ""
    return letters


class MachineFormat:
    """Facts as MLST and MLSD tell them: the chosen ones, in our order."""

    def __init__(self, chosen: frozenset[str], permissions: Callable[[Entry], str]) -> None:
        self._chosen = chosen
        self._permissions = permissions

    def line(self, entry: Entry, name: str | None = None, kind: str | None = None) -> str:
        """`fact=value;…; name`. `kind` overrides the type: cdir and pdir are no types on the disk."""
        chosen = self._chosen
        facts = ""
        if "type" in chosen:
            facts += f"type={kind or self._kind(entry)};"
        if "size" in chosen and entry.is_file:
            facts += f"size={entry.size};"
        if "modify" in chosen:
            facts += f"modify={time_value(entry.modified)};"
        if "perm" in chosen:
            facts += f"perm={self._permissions(entry)};"
        if "unique" in chosen:
            facts += f"unique={entry.device:x}U{entry.inode:x};"
        if "UNIX.mode" in chosen:
            facts += f"UNIX.mode={entry.mode & 0o7777:04o};"
        return f"{facts} {shown(entry.name if name is None else name)}"

    @staticmethod
    def _kind(entry: Entry) -> str:
        if entry.is_directory:
            return "dir"
        if entry.is_file:
            return "file"
        return "OS.unix=slink" if stat.S_ISLNK(entry.mode) else "OS.unix=other"
