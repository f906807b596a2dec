"""What the commands print, and how they read times: pure functions."""

from __future__ import annotations

import argparse
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpsd.cli import text
from ftpsd.cli.admin_client import AdminClient
from ftpsd.cli.durations import in_words, parse_duration, short
from ftpsd.cli.live import session_table
from ftpsd.cli.live.answers import Session, Status
from ftpsd.cli.live.sorting import ORDERS, in_order
from ftpsd.cli.top import screens
from ftpsd.cli.top import view as views
from ftpsd.cli.top.command import Top
from ftpsd.cli.top.frame import Look, lines
from ftpsd.cli.top.keyboard import Keyboard, keys
from ftpsd.cli.top.view import Kick, Quit, View

NOW = 1_800_000_000.0


def session(number: int = 1, **changes: Any) -> Session:
    """A session that waits for a command."""
    idle: dict[str, Any] = {
        "number": number, "user": "alice", "address": "192.0.2.7", "since": "2027-01-15T07:00:00.000Z", "idle": 5.0,
        "tls": "TLSv1.3", "certificate": None, "client": None, "command": "PWD", "path": None, "direction": None, "bytes": None,
        "size": None, "rate": None, "state": "idle",
    }  # fmt: skip
    return {**idle, **changes}  # type: ignore[typeddict-item]


def upload(number: int = 1, **changes: Any) -> Session:
    """A session that receives a file."""
    moving = {"idle": None, "state": "transfer", "command": "STOR", "path": "/in/a.bin", "direction": "upload"}
    return session(number, **{**moving, "bytes": 500, "size": None, "rate": 100.0, **changes})


@pytest.mark.parametrize(
    ("word", "seconds"),
    [("1", 1), ("90", 90), ("45s", 45), ("10m", 600), ("1h", 3600), ("2d", 172_800), (" 1H ", 3600)],
)
def test_a_time_has_a_unit_or_is_in_seconds(word: str, seconds: int) -> None:
    """`90`, `10m`, `1h` and `2d` are times."""
    assert parse_duration(word) == seconds


@pytest.mark.parametrize(
    "word", ["", "0", "-1", "1.5h", "1 h", "h", "1w", "1h30m", "٣", "3651d", "9" * 30, "1e3", "inf"]
)
def test_what_is_no_time_is_refused_with_an_example(word: str) -> None:
    """Anything else is refused in words that say what to write."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"10m, 1h or 2d|from 1 second to"):
        parse_duration(word)


def test_times_are_short() -> None:
    """A column of times is five cells wide."""
    assert [short(each) for each in (-1, 0, 59.9, 60, 3599, 3600, 86_399, 86_400, 1e8)] == [
        "0s", "0s", "59s", "1m", "59m", "1h00", "23h59", "1d", "1157d"
    ]  # fmt: skip
    assert [in_words(each) for each in (0, 90, 7500, 7201, 100_000)] == [
        "0 s",
        "1 min 30 s",
        "2 h 5 min",
        "2 h",
        "1 d 3 h",
    ]


@given(st.text(max_size=30), st.integers(0, 30))
def test_what_is_cut_fits(words: str, width: int) -> None:
    """A text that is cut takes no more cells than it may, at either end, and a text that fits is not changed."""
    printable = text.clean(words)
    for cut in (text.head, text.tail):
        assert text.cells(cut(printable, width)) <= width
        assert cut(printable, 500) == printable
    assert text.cells(text.pad(printable, 400)) == 400


@given(st.floats(0, 1e18))
def test_sizes_are_short(count: float) -> None:
    """A number of bytes takes at most five cells."""
    assert len(text.short_size(count)) <= 5


HOSTILE = "\x1b[2J\r\n\x07\u202e\x9b31m\udcff"


def test_a_client_cannot_control_the_terminal() -> None:
    """Names, programs, commands and paths of clients are printed without control characters."""
    evil = upload(user=HOSTILE, client=HOSTILE, command=HOSTILE, path=HOSTILE, address=HOSTILE, tls=HOSTILE)
    view = View(filter=HOSTILE)
    view.update([evil])
    view.selected, view.mode = 1, "question"
    shown = ["".join(part for part, _ in line) for line in lines(STATUS, view, NOW, Look())]
    for line in [*session_table.lines([evil], NOW, None), *session_table.lines([evil], NOW, 80), *shown]:
        assert line.isprintable(), line


@given(
    st.lists(
        st.builds(
            upload,
            number=st.integers(1, 10**6),
            user=st.none() | st.text(max_size=128),
            client=st.none() | st.text(max_size=100),
            path=st.text(max_size=300),
            address=st.ip_addresses().map(str),
            bytes=st.integers(0, 2**50),
            size=st.none() | st.integers(0, 2**50),
            rate=st.floats(0, 1e12),
        ),
        max_size=5,
    )
)
def test_a_session_fits_80_columns(sessions: list[Session]) -> None:
    """Whatever clients send, a line of who and top fits a terminal of 80 columns."""
    view = View()
    view.update(sessions)
    frame = ["".join(part for part, _ in line) for line in lines(STATUS, view, NOW, Look())]
    for line in [*session_table.lines(sessions, NOW, 80), *frame]:
        assert text.cells(line) <= 80, line
        assert not any(unicodedata.category(character) == "Cc" for character in line)


def test_a_long_path_keeps_the_name_of_the_file() -> None:
    """In a narrow column the end of a path is shown, with the command."""
    assert session_table.shorten_doing("STOR /in/2026/november/report.pdf", 18) == "STOR …r/report.pdf"


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_is_total(order: str) -> None:
    """Sessions without user, rate or size can be sorted, too, and equal ones keep the order of their numbers."""
    some = [
        session(3, user=None, address="?"),
        upload(2, size=1000),
        upload(1, rate=None, bytes=None),
        session(4, idle=None),
    ]
    assert sorted(each["number"] for each in in_order(some, order)) == [1, 2, 3, 4]


def test_a_bar_shows_what_is_done() -> None:
    """A transfer whose size is known has a bar and a percentage; any other shows its bytes."""
    view = View()
    view.update(
        [upload(1, bytes=450, size=1000), upload(2, bytes=2048), upload(3, bytes=10, size=5), upload(4, size=0)]
    )
    shown = ["".join(part for part, _ in line) for line in lines(STATUS, view, NOW, Look(bar="#-"))]
    assert "####------  45%" in shown[4] and "2.0K" in shown[5] and "########## 100%" in shown[6] and "500B" in shown[7]


# --- keys ------------------------------------------------------------------------------------------

STATUS: Status = {
    "version": "1.0", "started": "2027-01-15T07:00:00.000Z", "uptime": 100.0, "listeners": [],
    "sessions": {"name": "sessions", "used": 2, "limit": 1000},
    "transfers": {"uploads": 1, "downloads": 0, "upload_rate": 2048.0, "download_rate": 0.0},
    "limits": [], "groups": [], "bans": 0, "certificate": {"file": "c", "expires": None}, "certificates": [{"file": "c", "expires": None}],
    "reload": {"time": "2027-01-15T07:00:00.000Z", "ok": True, "faults": []},
    "threads": {"size": 1, "busy": 0, "stuck": 0}, "passive_ports": {"first": 1, "last": 2, "used": 0, "shared": False},
    "sources": [], "stores": [], "workers": [], "worker_restarts": 0, "sandbox": None,
}  # fmt: skip


def press(view: View, *pressed: str) -> Kick | None:
    """Press keys, one after the other."""
    for key in pressed:
        kick = view.press(key)
    return kick


def shown(view: View) -> list[int]:
    """The numbers of the sessions on the screen."""
    return [each["number"] for each in view.page()]


def test_keys_sort_filter_and_select() -> None:
    """s sorts, f filters, t leaves transfers only, and the arrow keys select and scroll."""
    view = View(room=2)
    view.update([upload(3, user="bob"), session(1), session(2, user=None, address="2001:db8::1")])
    assert shown(view) == [1, 2]
    press(view, "s")
    assert (view.order, shown(view)) == ("user", [1, 3])
    press(view, views.DOWN, views.DOWN, views.DOWN, views.DOWN)
    assert (view.selected, shown(view)) == (2, [3, 2])
    press(view, "f", *"B0B", views.BACKSPACE, views.BACKSPACE, "o", "b", views.ENTER)
    assert (view.filter, shown(view)) == ("Bob", [3])
    press(view, "f", "x", views.ESCAPE, "t")
    assert (view.filter, shown(view)) == ("", [3])
    press(view, "t", views.PAGE_UP)
    assert shown(view) == [1, 3]
    with pytest.raises(Quit):
        press(view, "q")


def test_a_kick_needs_a_selection_and_an_answer() -> None:
    """k asks; y kicks after the transfer, n now, and any other key does nothing."""
    view = View()
    view.update([session(1), session(2)])
    assert press(view, "k") is None and view.mode == "commands" and "arrow keys" in view.message
    assert press(view, views.DOWN, "k", "x") is None and "Nothing" in view.message
    assert press(view, "k", "y") == Kick(1, False)
    assert press(view, views.DOWN, "k", "n") == Kick(2, True)
    press(view, "k")
    view.update([session(1)])
    assert press(view, "y") is None and "has ended" in view.message
    view.update([])
    assert press(view, views.DOWN, views.PAGE_UP, "k") is None


def test_top_stays_while_the_daemon_is_away(tmp_path: Path) -> None:
    """When the daemon does not answer, top keeps the last state on the screen and says what is wrong."""
    view = View()
    view.update([session()])
    top = Top(AdminClient(tmp_path / "gone"), view, screens.Batch(), Keyboard(None), 1.0)
    assert top._refresh(STATUS) == STATUS
    frame = ["".join(part for part, _ in line) for line in lines(STATUS, view, NOW, Look(width=200))]
    assert "no such socket" in frame[-1] and "Trying again" in frame[-1] and shown(view) == [1]


@given(st.binary(max_size=40))
def test_any_bytes_are_keys(data: bytes) -> None:
    """Whatever a terminal sends, there are no more keys than bytes."""
    assert len(keys(data)) <= len(data)


def test_terminals_send_sequences() -> None:
    """Arrow keys of both kinds are known, Escape is a key of its own, and sequences that mean nothing are left out."""
    assert keys(b"\x1b[A\x1bOBk\x1b[5~\xc3\xa4\r\x7f") == ["up", "down", "k", "page up", "ä", "enter", "backspace"]
    assert keys(b"\x1b") == ["escape"]
    assert keys(b"\x1b[1;5Cq") == ["q"]
