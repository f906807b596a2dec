"""Where an upload starts, and what is kept of it: the tables of `upload_start` and `upload_end`, row by row."""

from __future__ import annotations

import pytest

from ftpsd.protocol.replies import Refusal
from ftpsd.storage.upload_end import Outcome, PartState, choose_end
from ftpsd.storage.upload_start import APPENDED, OUTRUN, RESUMABLE, OldFile, Start, choose_start

FILE, DIRECTORY = OldFile(100, True), OldFile(4096, False)


@pytest.mark.parametrize(
    ("part_size", "old", "offset", "expected"),
    [
        (0, None, 0, Start(0)),
        (50, None, 0, Start(0)),
        (50, None, 20, Start(20)),
        (50, None, 50, Start(50)),
        (50, None, 51, 554),
        (0, None, 1, 554),
        (0, FILE, 0, Start(0)),
        (50, FILE, 0, Start(0)),
        (50, FILE, 50, Start(50)),
        (50, FILE, 51, 550),
        (50, FILE, 100, 550),
        (0, FILE, 40, Start(0, 40)),
        (0, FILE, 100, Start(0, 100)),
        (0, FILE, 101, 554),
        (0, DIRECTORY, 40, 450),
        (0, DIRECTORY, 5000, 554),
        (0, DIRECTORY, 0, Start(0)),
    ],
)
def test_store(part_size: int, old: OldFile | None, offset: int, expected: Start | int) -> None:
    """STOR with a restart offset continues a part file before a file, and neither beyond its end."""
    check(part_size, RESUMABLE, old, offset, False, expected)


@pytest.mark.parametrize(
    ("part_size", "old", "expected"),
    [
        (0, None, Start(0)),
        (50, None, Start(50)),
        (0, FILE, Start(0, 100)),
        (50, FILE, 550),
        (0, OldFile(0, True), Start(0, 0)),
        (0, DIRECTORY, 450),
    ],
)
def test_append(part_size: int, old: OldFile | None, expected: Start | int) -> None:
    """APPE continues a file or a part file, and never guesses which of the two is meant."""
    check(part_size, RESUMABLE, old, 0, True, expected)


@pytest.mark.parametrize(
    ("mode", "old", "offset", "append", "expected"),
    [
        (APPENDED, FILE, 0, True, Start(0, 100)),
        (APPENDED, None, 0, True, Start(0)),
        (APPENDED, FILE, 50, False, Start(50)),
        (APPENDED, FILE, 40, False, Start(0, 40)),
        (APPENDED, None, 40, False, 554),
        (OUTRUN, FILE, 0, True, 550),
        (OUTRUN, None, 0, True, Start(50)),
        (OUTRUN, FILE, 50, False, Start(50)),
        (OUTRUN, FILE, 40, False, Start(0, 40)),
        (OUTRUN, None, 40, False, Start(40)),
    ],
)
def test_outdated_part_files(mode: int, old: OldFile | None, offset: int, append: bool, expected: Start | int) -> None:
    """A part file of 50 bytes whose upload was complete is continued only by a client that means it."""
    check(50, mode | 0o100000, old, offset, append, expected)


def check(part_size: int, mode: int, old: OldFile | None, offset: int, append: bool, expected: Start | int) -> None:
    """The decision is what the table says: a start, or a refusal with a code."""
    if isinstance(expected, Start):
        assert choose_start(part_size, mode, old, offset, append) == expected
        return
    with pytest.raises(Refusal) as caught:
        choose_start(part_size, mode, old, offset, append)
    assert caught.value.reply.code == expected


@pytest.mark.parametrize(
    ("outcome", "part", "mode"),
    [
        (Outcome.CUT, PartState(50, False, False, False, False), RESUMABLE),
        (Outcome.CUT, PartState(50, True, True, False, False), RESUMABLE),
        (Outcome.CUT, PartState(0, False, False, False, False), None),
        (Outcome.CUT, PartState(50, True, False, True, False), None),
        (Outcome.CUT, PartState(50, False, False, False, True), None),
        (Outcome.OVERTAKEN, PartState(50, False, False, False, True), OUTRUN),
        (Outcome.OVERTAKEN, PartState(50, False, False, True, True), OUTRUN),
        (Outcome.OVERTAKEN, PartState(50, True, False, True, True), APPENDED),
        (Outcome.OVERTAKEN, PartState(50, True, True, False, True), OUTRUN),
        (Outcome.OVERTAKEN, PartState(0, True, False, True, True), None),
        (Outcome.WORTHLESS, PartState(50, False, False, False, False), None),
    ],
)
def test_the_end(outcome: Outcome, part: PartState, mode: int | None) -> None:
    """What a client can still use is kept, under the mode that says for what."""
    assert choose_end(outcome, part) == mode
