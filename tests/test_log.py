"""The form of the log's lines: the daemon writes those of sessions itself, and they look like all others."""

from __future__ import annotations

import io
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import FileLogObserver, formatEventAsClassicLogText

from ftpsd.events.log_format import LineFormat, LineObserver
from tests import ftpclient
from tests.daemon import Daemon

MOMENTS = st.integers(0, 4 * 10**15).map(lambda microseconds: microseconds / 1e6)


@given(st.lists(MOMENTS, min_size=1), st.text(st.characters(blacklist_categories=["C", "Z"]), min_size=1))
def test_lines_are_what_twisted_would_write(moments: list[float], line: str) -> None:
    """A line of a session is the one that Twisted would write, in the same second and in others."""
    ours = LineFormat(lambda _: pytest.fail("not a line of others"))
    for moment in moments:
        event = {"log_format": "{line}", "line": line, "log_system": "ftpsd", "log_time": moment}
        assert ours(event) == formatEventAsClassicLogText(event)


def test_other_lines_are_left_to_twisted() -> None:
    """Lines of other parts of the program are formatted by Twisted."""
    ours = LineFormat(lambda event: str(event["log_system"]))
    assert ours({"log_format": "{line}", "line": "x", "log_system": "other", "log_time": 1.0}) == "other"
    assert ours({"log_format": "{a}", "a": "x", "log_system": "ftpsd", "log_time": 1.0}) == "ftpsd"


def test_every_line_says_when(shared: Daemon) -> None:
    """Lines of sessions and of the daemon begin alike, so that one pattern reads all of them."""
    ftpclient.secured(shared).socket.close()
    shared.wait_for_log(r"alice .*> PASS")
    lines = [line for line in shared.log.splitlines() if "> " in line or "listening" in line]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} \[ftpsd\S*\] ", line) for line in lines), lines


def _observer(written: list[str]) -> LineObserver:
    """Return an observer that writes into a list."""
    file = io.StringIO()
    file.write = lambda text: written.append(text) or len(text)  # type: ignore[method-assign,func-returns-value]
    return LineObserver(FileLogObserver(file, lambda event: f"{event['text']}\n"))


def test_lines_that_are_logged_together_are_written_at_once() -> None:
    """Lines of one block are written in order and before the next line, also if an exception ends the block."""
    written: list[str] = []
    observer = _observer(written)
    observer({"text": "before"})
    with observer.together():
        for text in "one", "two", "three":
            observer({"text": text})
        assert written == ["before\n"]
    observer({"text": "after"})
    assert written == ["before\n", "one\ntwo\nthree\n", "after\n"]
    with pytest.raises(ValueError), observer.together():
        observer({"text": "last"})
        raise ValueError
    with observer.together():
        pass
    assert written[3:] == ["last\n"]


def test_a_line_that_cannot_be_written_is_lost_alone(tmp_path: Path) -> None:
    """A file takes no lone surrogate. The other lines are written, and whoever logs them sees no error."""
    with (tmp_path / "log").open("w+", encoding="utf-8") as file:
        observer = LineObserver(FileLogObserver(file, lambda event: f"{event['text']}\n"))
        with observer.together():
            for text in "one", "\udce4", "three":
                observer({"text": text})
        assert Path(file.name).read_text() == "one\nthree\n"


def test_a_full_disk_raises_nothing_where_lines_are_logged_together() -> None:
    """The block ends as usual. Later lines are written when the disk has room."""
    with open("/dev/full", "wb", buffering=0) as full:
        file = io.StringIO()
        file.write = lambda text: full.write(text.encode())  # type: ignore[method-assign]
        observer = LineObserver(FileLogObserver(file, lambda event: f"{event['text']}\n"))
        with observer.together():
            observer({"text": "lost"})
            observer({"text": "lost as well"})
        del file.write
        with observer.together():
            observer({"text": "later"})
    assert file.getvalue() == "later\n"


def test_other_threads_do_not_wait_for_lines_that_are_logged_together() -> None:
    """What another thread logs meanwhile is written at once."""
    written: list[str] = []
    observer = _observer(written)
    with observer.together():
        observer({"text": "here"})
        other = threading.Thread(target=lambda: observer({"text": "there"}))
        other.start()
        other.join(10)
        assert written == ["there\n"]
    assert written == ["there\n", "here\n"]
