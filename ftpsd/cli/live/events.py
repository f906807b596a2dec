"""`ftpsd events`: what happens, as it happens; and what could not be delivered."""

from __future__ import annotations

import argparse
import json

from ftpsd.cli import text
from ftpsd.cli.admin_client import connect
from ftpsd.cli.failure import Unreachable
from ftpsd.cli.live.answers import local_time
from ftpsd.cli.options import add_config

Record = dict[str, object]

#: Fields that have a place of their own in a line, or tell people nothing.
_PLACED = {"id", "event", "time", "user", "address", "session", "path", "new_path", "text"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ftpsd events`."""
    add_config(parser)
    parser.add_argument("--event", metavar="NAMES", help="only these, for example upload,upload_failed")
    parser.add_argument("--user", metavar="NAME", help="only events of this user")
    parser.add_argument("--json", action="store_true", help="print a JSON object on each line")
    undelivered = parser.add_mutually_exclusive_group()
    undelivered.add_argument("--failed", action="store_true", help="show the events that could not be delivered")
    again = "deliver again what could not be delivered: all events, or one"
    undelivered.add_argument("--retry", nargs="?", const="", metavar="ID", help=again)


def run(options: argparse.Namespace) -> int:
    """Print events until interrupted, or those that could not be delivered; or let those be delivered again."""
    if options.failed or options.retry is not None:
        from ftpsd.cli import undelivered

        if options.failed:
            return undelivered.show(options.config, options.json)
        return undelivered.retry(options.config, options.retry or None)
    show = json.dumps if options.json else line
    for record in connect(options).stream("events", event=options.event, user=options.user):
        print(show(record), flush=True)
    raise Unreachable("the daemon has ended the stream of events")


def line(record: Record) -> str:
    """Return an event as a line: time, name, who, what, and its other fields."""
    user, address, session = record.get("user"), record.get("address"), record.get("session")
    who = f"{user or '-'} ({address})" if address else str(user or "")
    paths = [text.clean(record[each]) for each in ("path", "new_path") if record.get(each) is not None]
    others = [f"{name}={_value(value)}" for name, value in record.items() if name not in _PLACED]
    parts = [
        local_time(str(record.get("time"))),
        f"{record.get('event')!s:15}",
        f"({session:0>6})" if session is not None else "",
        who,
        " -> ".join(paths),
        *others,
        str(record.get("text") or ""),
    ]
    return text.clean(" ".join(filter(None, parts))).rstrip()


def _value(value: object) -> str:
    return json.dumps(value) if isinstance(value, list | dict) else str(value)
