"""Replies on the control connection, and the exceptions that carry a reply (RFC 959 section 4.2)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Literal

from ftpsd.protocol.encoding.names import UTF8, NameEncoding

NoDataReason = Literal["no_port", "timeout", "unreachable", "lost", "tls", "not_resumed", "certificate", "ambiguous"]


@dataclass(frozen=True, slots=True)
class Reply:
    """A three-digit code and one or more lines of text.

    The text may contain names from the client or the disk, with any characters. `encode` makes it safe to send.
    """

    code: int
    lines: tuple[str, ...]

    def __init__(self, code: int, *lines: str) -> None:
        object.__setattr__(self, "code", code)
        object.__setattr__(self, "lines", lines)

    @property
    def text(self) -> str:
        """The last line. Clients show it to their users."""
        return self.lines[-1]

    def encode(self, names: NameEncoding = UTF8) -> bytes:
        """Return the bytes to send: `code text`, or lines from `code-first` to `code last`."""
        if len(self.lines) == 1:
            text = self.lines[0]
            if text.isascii() and text.isprintable() and (names is UTF8 or "%{" not in text):
                return f"{self.code} {text}\r\n".encode("ascii")
            return b"%d %s\r\n" % (self.code, _wire(text, names))
        first, *middle, last = (_wire(line, names) for line in self.lines)
        # A line in the middle must not look like the last one (RFC 959 section 4.2): one with digits gets a space.
        body = b"".join((b" %s\r\n" if line[:1].isdigit() else b"%s\r\n") % line for line in middle)
        return b"%d-%s\r\n%s%d %s\r\n" % (self.code, first, body, self.code, last)


class FixedReply(Reply):
    """A reply that is sent often, and therefore encoded only once."""

    __slots__ = ("_encoded",)

    def __init__(self, code: int, *lines: str) -> None:
        super().__init__(code, *lines)
        object.__setattr__(self, "_encoded", super().encode())

    def encode(self, names: NameEncoding = UTF8) -> bytes:
        """Return the bytes to send, which are ASCII."""
        encoded: bytes = self._encoded  # type: ignore[attr-defined]
        return encoded


def _wire(text: str, names: NameEncoding) -> bytes:
    raw = names.encode(text)
    # A line feed cannot be sent within a Telnet line, and would let a file name forge a reply. A CR is sent as CR NUL
    # (RFC 2640 section 3.1), and byte 255 twice (RFC 854; lftp decodes that).
    return raw.replace(b"\0", b"?").replace(b"\n", b"?").replace(b"\r", b"\r\0").replace(b"\xff", b"\xff\xff")


_UNITS = ("KiB", "MiB", "GiB", "TiB")


def readable_size(count: int) -> str:
    """Return a number of bytes as replies show it: `512 bytes`, `3.2 GiB`."""
    if count < 1024:
        return f"{count} bytes"
    exponent = min((count.bit_length() - 1) // 10, len(_UNITS))
    return f"{count / 1024**exponent:.1f} {_UNITS[exponent - 1]}"


class Refusal(Exception):
    """An exception that carries the reply to the client. It may be raised at any depth: `raise Refusal(553, "…")`."""

    def __init__(self, code: int, *lines: str) -> None:
        super().__init__(code, *lines)
        self.reply = Reply(code, *lines)


class NoDataConnection(Refusal):
    """A Refusal because there is no data connection that a transfer can use. `reason` is for metrics:

    no_port       all passive ports are in use
    timeout       the client has not connected, or has not finished its TLS handshake, in time
    unreachable   active mode: the client does not accept the connection
    lost          the connection has ended before the transfer
    tls           the TLS handshake has failed
    not_resumed   the TLS handshake has not resumed the session of the control connection
    certificate   the client certificate is not that of the control connection
    ambiguous     several sessions of one address wait at a shared port, and the connection does not tell its own
    """

    def __init__(self, reason: NoDataReason, code: int, text: str) -> None:
        super().__init__(code, text)
        self.reason = reason


class MixedUp(NoDataConnection):
    """A Refusal because a client uses the TLS session of one control connection for the transfers of another."""

    def __init__(self) -> None:
        super().__init__(
            "ambiguous",
            425,
            "Your client uses the TLS session of one control connection for several, and they share a passive port: "
            "nobody can tell to which of them a data connection belongs. Transfer one file at a time.",
        )


class WrongCertificate(Refusal):
    """A Refusal because a login failed: the client's certificate is not that of the user."""

    def __init__(self) -> None:
        super().__init__(530, "Login incorrect: the client certificate is not for this user.")


class SessionEnd(Refusal):
    """A Refusal that ends the session: the connection is closed after the reply."""


_ERRNO: dict[int, tuple[int, str]] = {
    errno.ENOENT: (550, "No such file or directory."),
    errno.ENOTDIR: (550, "Not a directory."),
    errno.EISDIR: (550, "Is a directory."),
    errno.EEXIST: (550, "Name already exists."),
    errno.ENOTEMPTY: (550, "Directory not empty."),
    errno.EACCES: (550, "Permission denied."),
    errno.EPERM: (550, "Permission denied."),
    errno.EROFS: (550, "Read-only file system."),
    errno.ELOOP: (550, "Symbolic link loop, or a link that may not be followed."),
    errno.EXDEV: (550, "Cannot rename across file systems."),
    errno.EBUSY: (450, "File busy: try again later."),
    errno.ETXTBSY: (450, "File busy: try again later."),
    errno.ENAMETOOLONG: (553, "File name too long."),
    errno.EINVAL: (553, "Invalid file name."),
    errno.EILSEQ: (553, "File name not allowed by the file system."),
    errno.ENOSPC: (452, "No space left on the disk."),
    errno.EDQUOT: (552, "Disk quota exceeded."),
    errno.EFBIG: (552, "File too large for the file system."),
    errno.EIO: (451, "Disk I/O error."),
    errno.EMFILE: (451, "Too many open files: try again later."),
    errno.ENFILE: (451, "Too many open files: try again later."),
    errno.ENOMEM: (451, "Out of memory: try again later."),
}


def from_oserror(error: OSError) -> Reply:
    """Return the reply for an error of the operating system: 451 if it is not in the table."""
    code, text = _ERRNO.get(error.errno or 0, (451, "File system error."))
    return Reply(code, text)
