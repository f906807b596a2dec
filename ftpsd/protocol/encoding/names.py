"""Convert the names in commands, replies and listings: NameEncoding.

In the daemon a name is text, as Unicode; bytes that are not UTF-8 are surrogates (PEP 383), as Python has them. UTF8
sends each name back as it is on the disk. An older encoding has few characters. A character that it does not have is
sent as `%{HEX}`, the number of the character: `%{65E5}` for 日. A name that the client sends is read the same way, so
that it can use every name that it sees. `%{HEX}` for a character that the encoding has is no escape, but plain text; a
name that itself contains an escape is sent with `%{25}` for its first sign.
"""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

from ftpsd.protocol.encoding.supported import ENCODINGS, SUBSTITUTES

_ESCAPE = re.compile(r"%\{([0-9A-F]{2,6})\}")
_PERCENT, _BRACE = 0x25, "{"

#: Characters that stand for a byte 128 to 255 that is not UTF-8 (PEP 383). No other surrogate can be in a name.
_BYTES = range(0xDC80, 0xDD00)


class Undecodable(str):
    """An argument that is no text in the encoding of the session. The text is for the log."""

    __slots__ = ()


class NameEncoding:
    """An encoding that has every ASCII character as one byte, and uses no such byte in another character."""

    def __init__(self, name: str) -> None:
        #: The name, as the configuration and replies have it.
        self.name = name
        self._codec = name
        #: Characters that the codec would replace by similar ones, and their escapes.
        self._similar = {ord(each): _escape(each) for each in SUBSTITUTES.get(name, "")}

    def decode(self, raw: bytes) -> str:
        """Return the text that a client has sent; Undecodable if it is none."""
        try:
            text = raw.decode(self._codec)
        except UnicodeDecodeError:
            return Undecodable(raw.decode("utf-8", "surrogateescape"))
        if "%{" not in text:
            return text
        text = _ESCAPE.sub(lambda found: self._escaped(found) or found[0], text)
        # Escaped bytes that are UTF-8 together must be the characters that they are: a name has one spelling.
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")

    def encode(self, text: str) -> bytes:
        """Return the bytes of a text. `decode` returns the same text for them."""
        if "%{" in text:
            text = _ESCAPE.sub(lambda found: f"%{{25}}{found[0][1:]}" if self._escaped(found) else found[0], text)
        if self._similar:
            text = text.translate(self._similar)
        return text.encode(self._codec, _HANDLER)

    def _escaped(self, found: re.Match[str]) -> str | None:
        """Return the character of an escape; None if it is none, but plain text."""
        number = int(found[1], 16)
        if found[1] != f"{number:02X}" or number > 0x10FFFF:
            return None
        if number == _PERCENT:
            return "%" if found.string.startswith(_BRACE, found.end()) else None
        return None if self._has(number) or (0xD800 <= number < 0xE000 and number not in _BYTES) else chr(number)

    def _has(self, number: int) -> bool:
        try:
            chr(number).encode(self._codec)
        except UnicodeEncodeError:
            return False
        return number not in self._similar


class _Utf8(NameEncoding):
    """UTF-8. Bytes that are not UTF-8 are kept."""

    def decode(self, raw: bytes) -> str:
        return raw.decode("utf-8", "surrogateescape")

    def encode(self, text: str) -> bytes:
        return text.encode("utf-8", "surrogateescape")


def _escape(text: str) -> str:
    return "".join(f"%{{{ord(each):02X}}}" for each in text)


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return _escape(error.object[error.start : error.end]), error.end


#: The error handler of `encode`.
_HANDLER = "ftpsd.escape"
codecs.register_error(_HANDLER, _replace)

UTF8 = _Utf8("utf-8")


@lru_cache
def find(name: str) -> NameEncoding | None:
    """Return the encoding of a name, whose spelling may differ; None if it is not supported."""
    try:
        canonical = codecs.lookup(name).name
    except (LookupError, ValueError):
        return None
    if canonical == UTF8.name:
        return UTF8
    return NameEncoding(canonical) if canonical in ENCODINGS else None
