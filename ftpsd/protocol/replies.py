"""Replies on the control connection, and the errors that know theirs (RFC 959 section 4.2)."""

from __future__ import annotations

import errno
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reply:
    """A three-digit code and one or more lines of text.

    The text may hold anything a client sent or a disk holds; `encode` is the one place where it is
    made safe for the wire.
    """

    code: int
    lines: tuple[str, ...]

    def __init__(self, code: int, *lines: str) -> None:
        object.__setattr__(self, "code", code)
        object.__setattr__(self, "lines", lines)

    @property
    def text(self) -> str:
        """The last line: the one that clients show."""
        return self.lines[-1]

    def encode(self) -> bytes:
        """The reply as it goes over the wire: one line, or `code-first … code last`."""
        if len(self.lines) == 1:
            return b"%d %s\r\n" % (self.code, _wire(self.lines[0]))
        first, *middle, last = (_wire(line) for line in self.lines)
        # A line within must not look like the last one (RFC 959 4.2): digits get a blank in front.
        body = b"".join((b" %s\r\n" if line[:1].isdigit() else b"%s\r\n") % line for line in middle)
        return b"%d-%s\r\n%s%d %s\r\n" % (self.code, first, body, self.code, last)


class FixedReply(Reply):
    """A reply that is sent often: it is encoded once."""

    __slots__ = ("_encoded",)

    def __init__(self, code: int, *lines: str) -> None:
        super().__init__(code, *lines)
        object.__setattr__(self, "_encoded", super().encode())

    def encode(self) -> bytes:
        """The reply as it goes over the wire."""
        encoded: bytes = self._encoded  # type: ignore[attr-defined]
        return encoded


def _wire(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    if raw.isascii() and raw.isalnum():
        return raw
    # A line feed has no form on a Telnet line, and would let a file's name write replies of its
    # own. CR NUL is RFC 2640 3.1; doubling of 255 is Telnet's (lftp undoes it).
    return raw.replace(b"\0", b"?").replace(b"\n", b"?").replace(b"\r", b"\r\0").replace(b"\xff", b"\xff\xff")


class Refusal(Exception):
    """An error that knows its reply. `raise Refusal(553, "…")` is all there is to do, at any depth."""

    def __init__(self, code: int, *lines: str) -> None:
        super().__init__(code, *lines)
        self.reply = Reply(code, *lines)


class SessionEnd(Refusal):
    """A refusal after which the session ends: the reply is sent, then the connection is closed."""


_ERRNO: dict[int, tuple[int, str]] = {
    errno.ENOENT: (550, "No such file or directory."),
    errno.ENOTDIR: (550, "Not a directory."),
    errno.EISDIR: (550, "That is a directory."),
    errno.EEXIST: (550, "That name exists already."),
    errno.ENOTEMPTY: (550, "The directory is not empty."),
    errno.EACCES: (550, "Permission denied."),
    errno.EPERM: (550, "Permission denied."),
    errno.EROFS: (550, "The file system is read-only."),
    errno.ELOOP: (550, "Too many symbolic links, or one that may not be followed."),
    errno.EXDEV: (550, "That is on another file system."),
    errno.EBUSY: (450, "The file is busy. Try again later."),
    errno.ETXTBSY: (450, "The file is busy. Try again later."),
    errno.ENAMETOOLONG: (553, "That name is too long."),
    errno.EINVAL: (553, "That name is not possible here."),
    errno.EILSEQ: (553, "The file system does not allow that name."),
    errno.ENOSPC: (452, "No space left on the disk."),
    errno.EDQUOT: (552, "The disk quota is used up."),
    errno.EFBIG: (552, "The file would be too large for the file system."),
    errno.EIO: (451, "The disk reports an error."),
    errno.EMFILE: (451, "Too many open files. Try again later."),
    errno.ENFILE: (451, "Too many open files. Try again later."),
    errno.ENOMEM: (451, "Out of memory. Try again later."),
}


def from_oserror(error: OSError) -> Reply:
    """The reply for what the system said no to; 451 for what the table does not know."""
    code, text = _ERRNO.get(error.errno or 0, (451, "The server's file system reports an error."))
    return Reply(code, text)
