"""TYPE A: lines end in CRLF on the wire and in LF on the disk (RFC 959 section 3.1.1.1)."""

from __future__ import annotations


class ToNetwork:
    """LF becomes CRLF. A CRLF that the file has already stays as it is, chunk edges included."""

    def __init__(self) -> None:
        self._after_cr = False

    def convert(self, piece: bytes) -> bytes:
        """The next piece of the file, as the network has it."""
        if not piece:
            return piece
        text = piece.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        if self._after_cr and piece[:1] == b"\n":
            text = text[1:]
        self._after_cr = piece[-1:] == b"\r"
        return text

    def end(self) -> bytes:
        """What is left to send after the last piece: nothing, ever."""
        return b""


class FromNetwork:
    """CRLF becomes LF. A CR that stands alone stays, chunk edges included."""

    def __init__(self) -> None:
        self._held = b""

    def convert(self, piece: bytes) -> bytes:
        """The next piece from the network, as the file gets it."""
        text = self._held + piece
        self._held = b"\r" if text[-1:] == b"\r" else b""
        return (text[:-1] if self._held else text).replace(b"\r\n", b"\n")

    def end(self) -> bytes:
        """A CR that was held back, since the LF behind it never came."""
        held, self._held = self._held, b""
        return held
