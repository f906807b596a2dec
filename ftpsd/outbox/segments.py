"""The files of the journal: their names, and the form of a line.

    <run>.lock             locked by the daemon of a run while it lives; removed when all intents of the run are decided
    <run>-<number>.events  a segment: lines that are only ever appended, by the daemon of that run

A line is a CRC-32 in hexadecimal, a blank, and a JSON object. A line without its end, or with another checksum, was cut
by a crash: it was not acted upon, since its write had not returned.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

#: What a line holds: an object of JSON.
Entry: TypeAlias = dict[str, object]

_NAME = re.compile(r"([0-9a-f]{24})-([0-9]{6})\.events")

#: Returns an object as JSON in ASCII: it may have a part of a surrogate pair.
_encode = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode


class Segment(NamedTuple):
    """One file of the journal. Segments sort by the time at which they were begun."""

    run: str
    number: int
    path: Path


def segment(directory: Path, run: str, number: int) -> Segment:
    """Return the segment of a run with a number."""
    return Segment(run, number, directory / f"{run}-{number:06d}.events")


def segments(directory: Path) -> list[Segment]:
    """Return all segments in a directory, the oldest first."""
    found = []
    for path in directory.iterdir():
        match = _NAME.fullmatch(path.name)
        if match is not None:
            found.append(Segment(match[1], int(match[2]), path))
    return sorted(found)


def lock_file(directory: Path, run: str) -> Path:
    """Return the lock file of a run."""
    return directory / f"{run}.lock"


def to_line(entry: Entry) -> bytes:
    """Return an entry as a line of the journal."""
    return _line(_encode(entry).encode())


def intent_line(identity: str, record: str, evidence: Entry, paths: list[str] | None) -> bytes:
    """Return the line of an intent, whose record is JSON already. `paths` only if the record has another text."""
    own = "" if paths is None else f',"paths":{_encode(paths)}'
    text = f'{{"intent":"{identity}","record":{record},"evidence":{_encode(evidence)}{own}}}'
    return _line(text.encode("utf-8", "backslashreplace"))  # what UTF-8 cannot have is escaped as JSON does


def decision(identity: str, made: bool) -> bytes:
    """Return the line with the decision of an intent. An identity needs no quoting."""
    return _line(b'{"%b":"%b"}' % (b"done" if made else b"void", identity.encode()))


def _line(text: bytes) -> bytes:
    return b"%08x %b\n" % (zlib.crc32(text), text)


def from_line(line: bytes) -> Entry | None:
    """Return the entry of a line, or None if the line was damaged."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        entry = json.loads(text)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def entries(segment: Segment) -> Iterator[Entry]:
    """Yield all entries of a segment to which nobody writes."""
    with segment.path.open("rb") as file:
        for line in file:
            entry = from_line(line) if line.endswith(b"\n") else None
            if entry is not None:
                yield entry


def paths_of(entry: Entry) -> list[str]:
    """Return the paths of an event, as clients spell them. An entry names them only if its record has another text."""
    record, paths = entry["record"], entry.get("paths")
    assert isinstance(record, dict)
    if isinstance(paths, list):
        return paths
    return [record[name] for name in ("path", "new_path") if name in record]


def add_paths(entry: Entry, paths: list[str]) -> Entry:
    """Return an entry with the paths of its event, if its record has another text."""
    if paths != paths_of(entry):
        entry["paths"] = paths
    return entry
