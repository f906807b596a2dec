"""`ftpsd who`: one line for each session."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time

from ftpsd.cli.admin_client import connect
from ftpsd.cli.live import answers, session_table
from ftpsd.cli.live.sorting import ORDERS, in_order
from ftpsd.cli.options import add_config

STATES = ("handshake", "login", "idle", "command", "transfer", "closing")

#: The fields of a session in `--json`. They do not change: programs read them.
FIELDS = "number user address since idle tls certificate client command path direction bytes size rate".split()  # noqa: SIM905


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ftpsd who`."""
    add_config(parser)
    add_filters(parser)
    parser.add_argument("--sort", choices=ORDERS, default="number", help="the order of the lines (default: number)")
    parser.add_argument("--wide", action="store_true", help="shorten nothing, however wide the terminal is")
    parser.add_argument("--json", action="store_true", help="print a JSON array")


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose sessions."""
    parser.add_argument("--user", metavar="NAME", help="only sessions of this user")
    parser.add_argument("--address", metavar="A", help="only sessions from this address")
    parser.add_argument("--state", choices=STATES, help="only sessions in this state")


def run(options: argparse.Namespace) -> int:
    """Print the sessions; return 0 even if there is none."""
    chosen = {"user": options.user, "address": options.address, "state": options.state}
    found, missing = answers.sessions(connect(options), **chosen)
    for index in missing:
        print(f"Worker {index} does not answer: its sessions are not shown.", file=sys.stderr)
    sessions = in_order(found, options.sort)
    if options.json:
        whole: list[dict[str, object]] = [dict(session) for session in sessions]
        json.dump([{field: session[field] for field in FIELDS} for session in whole], sys.stdout, indent=2)
        print()
        return 0
    if not sessions:
        print("No sessions.", file=sys.stderr)
        return 0
    width = None if options.wide else terminal_width()
    print("\n".join(session_table.lines(sessions, time.time(), width)))
    return 0


def terminal_width() -> int:
    """Return the width of the terminal; 80 if there is none."""
    return max(20, shutil.get_terminal_size((80, 24)).columns)
