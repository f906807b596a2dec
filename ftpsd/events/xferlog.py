"""The line of xferlog for a transfer, in the format of wu-ftpd, which log analysers read.

ProFTPD and vsftpd write the same format; xferlog(5) of ProFTPD describes it.
"""

from __future__ import annotations

import time

from ftpsd.events.types import TransferEnded

# Not from `strftime`, which uses the locale.
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def xferlog_line(event: TransferEnded, when: float) -> str:
    """Return the line of a transfer of a file that ended at `when` (POSIX time), without a line end."""
    session = event.session
    return " ".join(
        (
            _local_time(when),
            str(max(1, round(event.seconds))),  # as wu-ftpd and vsftpd: analysers divide by it
            session.address,
            str(event.bytes),
            _one_word(event.path),
            "a" if event.ascii else "b",
            "_",  # no special action, such as compression
            "o" if event.kind == "download" else "i",
            "r",  # a user with a password
            _one_word(session.user),
            "ftp",
            "0",  # no RFC 931 authentication
            "*",
            "c" if event.complete else "i",
        )
    )


def _local_time(when: float) -> str:
    """Return a time as `Thu Nov 26 02:17:51 2026`."""
    now = time.localtime(when)
    day = f"{_DAYS[now.tm_wday]} {_MONTHS[now.tm_mon - 1]} {now.tm_mday:2d}"
    return f"{day} {now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d} {now.tm_year}"


def _one_word(text: str) -> str:
    """Replace each blank and each unprintable character by an underscore, as ProFTPD and vsftpd do."""
    if text.isprintable() and " " not in text:
        return text
    return "".join(each if each.isprintable() and each != " " else "_" for each in text)
