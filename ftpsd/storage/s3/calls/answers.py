"""What a store answers, as typed values: objects, pages of listings, parts and open uploads."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple, Protocol
from urllib.parse import unquote_plus

from ftpsd.storage.s3.calls.errors import FAILED, StoreFailed

#: The metadata with the time of modification, in seconds since 1970: a habit of rclone and s3fs.
MTIME = "mtime"

#: The times that FTP can show, with years of four digits: POSIX times.
_EARLIEST, _LATEST = -30_610_224_000.0, 253_402_300_799.0


class Answer(dict[str, object]):
    """An answer, or a part of it. Raises StoreFailed if a field is missing that is read by its name.

    `noted` is called with the error.
    """

    __slots__ = ("_noted",)

    def __init__(self, found: Mapping[str, object], noted: Callable[[StoreFailed], object]) -> None:
        super().__init__(found)
        self._noted = noted

    def __missing__(self, name: str) -> object:
        raise self.failure(f"an answer has no {name}")

    def failure(self, why: str) -> StoreFailed:
        """Return the error for an answer that no store may give. It is logged."""
        error = StoreFailed(451, FAILED, why)
        self._noted(error)
        return error

    def items_of(self, name: str) -> list[Answer]:
        """Return the list with this name; an empty one if there is none."""
        found = self.get(name)
        return [Answer(each, self._noted) for each in found] if isinstance(found, list) else []

    def part(self, name: str) -> Answer:
        """Return the part with this name."""
        found = self[name]
        assert isinstance(found, dict)
        return Answer(found, self._noted)


class Found(NamedTuple):
    """An object."""

    size: int
    etag: str
    #: When it was stored, and when its content was changed: POSIX times.
    stored: float
    modified: float
    #: The checksum that was asked for, in hexadecimal digits; empty if the store has none of the whole object.
    checksum: str = ""


class Listed(NamedTuple):
    """An object in a listing."""

    key: str
    size: int
    stored: float
    etag: str


class Page(NamedTuple):
    """A part of a listing. `following` is None for the last one."""

    objects: list[Listed]
    prefixes: list[str]
    following: str | None


class StoredPart(NamedTuple):
    """A part of a multipart upload."""

    number: int
    size: int
    etag: str
    stored: float


class OpenUpload(NamedTuple):
    """A multipart upload that is neither complete nor aborted."""

    key: str
    identity: str
    started: float


class Body(Protocol):
    """The bytes of an object."""

    def read(self, amt: int) -> bytes:
        """Return some bytes; none at the end."""

    def close(self) -> None:
        """Close the connection."""


def key_of(value: object, answer: Answer) -> str:
    """Return a key, decoded if the answer is encoded (`EncodingType`)."""
    return unquote_plus(text_of(value)) if answer.get("EncodingType") == "url" else text_of(value)


def text_of(value: object) -> str:
    """Return a value that is a text."""
    assert isinstance(value, str)
    return value


def etag_of(answer: Answer) -> str:
    """Return an ETag in one form: some stores write the same one with quotes, without them, or as a weak one."""
    return f'"{text_of(answer["ETag"]).removeprefix("W/").strip(chr(34))}"'


def range_of(answer: Answer) -> tuple[int, int] | None:
    """Return where the bytes of an answer begin in the object, and the object's size; None if it does not say so."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", str(answer.get("ContentRange")))
    return (int(found[1]), int(found[2])) if found else None


def number_of(value: object) -> int:
    """Return a value that is an integer."""
    assert isinstance(value, int)
    return value


def found_of(answer: Answer, size: int, checksum: str | None = None) -> Found:
    """Return the facts of an object from an answer. `checksum` is the name of the field with one."""
    stored, metadata = time_of(answer["LastModified"]), answer.get("Metadata")
    modified = metadata.get(MTIME) if isinstance(metadata, dict) else None
    return Found(size, etag_of(answer), stored, _mtime(modified, stored), _checksum(answer, checksum))


def time_of(value: object) -> float:
    """Return a time as POSIX time; 0 if there is none."""
    return value.timestamp() if isinstance(value, datetime) else 0.0


def _checksum(answer: Answer, field: str | None) -> str:
    """Return a checksum in hexadecimal digits, if it is one of the whole object, and not of the checksums of its parts.

    The latter has the type COMPOSITE, a number after it, or in stores that tell neither, an ETag with a number.
    """
    value, kind = answer.get(field or ""), answer.get("ChecksumType")
    if not isinstance(value, str) or "-" in value or (kind is None and "-" in text_of(answer["ETag"])):
        return ""
    if kind not in (None, "FULL_OBJECT"):
        return ""
    try:
        return base64.b64decode(value, validate=True).hex()
    except ValueError:
        return ""


def _mtime(value: object, otherwise: float) -> float:
    """Return the time of `MTIME`, which other programs may have written."""
    try:
        found = float(value) if isinstance(value, str) else otherwise
    except ValueError:
        return otherwise
    return found if _EARLIEST <= found <= _LATEST else otherwise
