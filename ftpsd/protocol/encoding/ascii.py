"""Conversion of line ends for TYPE A: CRLF in the network, LF on the disk (RFC 959 section 3.1.1.1)."""

from __future__ import annotations


class ToNetwork:
    """Converts LF to CRLF. A CRLF in the file is sent unchanged, also if two pieces divide it."""

    def __init__(self) -> None:
        self._after_cr = False

    def convert(self, piece: bytes) -> bytes:
        """Return the next piece of the file, converted."""
        if not piece:
            return piece
        text = piece.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        if self._after_cr and piece[:1] == b"\n":
            text = text[1:]
        self._after_cr = piece[-1:] == b"\r"
        return text


class FromNetwork:
    """Converts CRLF to LF. A CR without LF is kept. Two pieces may divide a CRLF."""

    def __init__(self) -> None:
        self._pending_cr = b""

    def convert(self, piece: bytes) -> bytes:
        """Return the next piece from the network, converted."""
        text = self._pending_cr + piece
        self._pending_cr = b"\r" if text[-1:] == b"\r" else b""
        return (text[:-1] if self._pending_cr else text).replace(b"\r\n", b"\n")

    def end(self) -> bytes:
        """Return what is left at the end of the stream: a CR that no LF followed, or nothing."""
        rest, self._pending_cr = self._pending_cr, b""
        return rest
