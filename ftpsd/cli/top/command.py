"""`ftpsd top`: its options, and the loop that asks the daemon, shows a frame, and waits for a key."""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import sys
import time
from typing import cast

from ftpsd.cli.admin_client import AdminClient, Refused, find_socket
from ftpsd.cli.failure import Unreachable
from ftpsd.cli.live import answers
from ftpsd.cli.live.sorting import API_ORDERS, ORDERS
from ftpsd.cli.options import add_config
from ftpsd.cli.top import frame, screens
from ftpsd.cli.top.keyboard import Keyboard, keyboard
from ftpsd.cli.top.view import Kick, Quit, View

#: The most sessions of one answer. Without a terminal, all are printed.
_MOST = 10_000

#: Seconds that the screen waits for the daemon: no key is answered meanwhile.
PATIENCE = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ftpsd top`."""
    add_config(parser)
    parser.add_argument("--interval", type=_interval, default=2.0, metavar="S", help="seconds from frame to frame (2)")
    parser.add_argument("--sort", choices=ORDERS, default="number", help="the first order (default: number)")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only sessions that show this text")
    parser.add_argument("--transfers", action="store_true", help="only sessions with a running transfer")
    parser.add_argument("--batch", action="store_true", help="print frames as plain text, until interrupted")
    parser.add_argument("--count", type=_count, metavar="N", help="print N frames as plain text, then end")


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0.2 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("write seconds, from 0.2 to 3600")
    return seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 10**9):
        raise argparse.ArgumentTypeError("write a number from 1")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Show the sessions until the user leaves. Print one frame without a terminal, or what the options say."""
    client = AdminClient(find_socket(options.config), PATIENCE)
    view = View(options.sort, options.filter, options.transfers)
    if options.batch or options.count or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        _print(client, view, options)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave the screen as it was
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    status = _update(client, view)  # before the screen changes: a daemon out of reach is said on the old one
    with keyboard() as keys, screens.terminal() as screen:
        view.message = screen.hint
        try:
            Top(client, view, screen, keys, options.interval).serve(status)
        except (Quit, KeyboardInterrupt):
            pass
    return 0


def _print(client: AdminClient, view: View, options: argparse.Namespace) -> None:
    batch = screens.Batch()
    count = options.count or (None if options.batch else 1)
    view.room = sys.maxsize
    for number in itertools.count(1):
        status = _update(client, view)
        batch.show(frame.lines(status, view, time.time(), _look(keys=False)))
        if number == count:
            return
        time.sleep(options.interval)


def _update(client: AdminClient, view: View) -> answers.Status:
    sessions, total = sessions_for(client, view)
    view.update(sessions, total - len(sessions))
    return answers.status(client)


def sessions_for(client: AdminClient, view: View) -> tuple[list[answers.Session], int]:
    """Return the sessions that the screen needs, and how many there are.

    A filter needs all of them, and so does a selected session that is no longer among the first.
    """
    ask = answers.transfers if view.transfers_only else answers.page
    if not view.filter and view.needed <= _MOST:
        found, total = ask(client, sort=API_ORDERS[view.order], limit=view.needed)
        if len(found) == total or view.selected in (None, *(each["number"] for each in found)):
            return found, total
    everything, _ = answers.sessions(client)
    return everything, len(everything)


def _look(keys: bool) -> frame.Look:
    width = max(40, shutil.get_terminal_size((80, 24)).columns)
    wide = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return frame.Look(width, "━─" if wide else "#-", keys)


class Top:
    """The live screen."""

    def __init__(
        self, client: AdminClient, view: View, screen: screens.Screen, keys: Keyboard, interval: float
    ) -> None:
        self._client = client
        self._view = view
        self._screen = screen
        self._keys = keys
        self._interval = interval

    def serve(self, status: answers.Status) -> None:
        """Show frames and act on keys. Raises Quit when the user leaves."""
        while True:
            due = time.monotonic() + self._interval
            self._show(status)
            while (left := due - time.monotonic()) > 0:
                for key in self._keys.wait(left):
                    query = self._view.query
                    kick = self._view.press(key)
                    if self._view.query != query:
                        due = 0  # other sessions are shown now
                    if kick is not None:
                        self._kick(kick)
                        due = 0  # show what has become of it
                self._show(status)
            status = self._refresh(status)

    def _show(self, status: answers.Status) -> None:
        self._view.room = max(1, shutil.get_terminal_size((80, 24)).lines - frame.FRAME_LINES)
        self._screen.show(frame.lines(status, self._view, time.time(), _look(keys=True)))

    def _refresh(self, status: answers.Status) -> answers.Status:
        """Return the new state; the old one while the daemon is out of reach."""
        try:
            status = _update(self._client, self._view)
            self._view.trouble = ""
        except (Unreachable, Refused) as failure:
            self._view.trouble = f"{failure}. Trying again."
        return status

    def _kick(self, kick: Kick) -> None:
        try:
            answer = self._client.delete(f"sessions/{kick.number}", now=kick.now or None)
        except (Unreachable, Refused) as failure:
            self._view.message = str(failure)
            return
        done = bool(cast(dict[str, int], answer)["dismissed"])
        when = "now" if kick.now else "after its transfer"
        self._view.message = f"Session {kick.number} ends {when}." if done else f"Session {kick.number} has ended."
