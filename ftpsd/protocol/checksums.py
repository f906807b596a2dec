"""The checksums that HASH computes (draft-bryan-ftpext-hash)."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from typing import Protocol


class Digest(Protocol):
    """A checksum that is being computed, with the methods of `hashlib`."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Add the next bytes."""

    def hexdigest(self) -> str:
        """Return the checksum of all bytes so far, in hexadecimal digits."""


class Crc32:
    """CRC-32 (IEEE 802.3)."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | memoryview, /) -> None:
        """Add the next bytes."""
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        """Return the checksum of all bytes so far, in eight hexadecimal digits."""
        return f"{self._value:08x}"


#: The algorithms by the names of the draft. The first is the default.
HASHES: dict[str, Callable[[], Digest]] = {
    "SHA-256": hashlib.sha256,
    "SHA-512": hashlib.sha512,
    "SHA-1": lambda: hashlib.sha1(usedforsecurity=False),
    "MD5": lambda: hashlib.md5(usedforsecurity=False),
    "CRC32": Crc32,
}


class Checksum:
    """The checksum of a file: computed from its bytes, or known already."""

    def __init__(self, algorithm: str) -> None:
        self._digest = HASHES[algorithm]()
        self.update = self._digest.update
        #: The checksum in hexadecimal digits, if storage knows it.
        self.known = ""

    def hexdigest(self) -> str:
        """Return the checksum in hexadecimal digits."""
        return self.known or self._digest.hexdigest()
