"""`ftpsd bans`: list and lift bans in the state file, whether or not the daemon runs.

A daemon without a state directory has its bans in memory only, and is asked for them.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import sys
import time
from datetime import datetime
from typing import TypedDict, cast

from ftpsd.cli.admin_client import AdminClient, configured_socket
from ftpsd.cli.durations import in_words
from ftpsd.cli.failure import CommandFailed, Unreachable
from ftpsd.cli.options import CONFIGURATION, add_action, add_config
from ftpsd.cli.state_file import InMemory, open_state_file
from ftpsd.limits.bans import tables
from ftpsd.limits.bans.ban_list import shown_subject, stored_name

#: A ban that ends after this time (POSIX) has no end: the year 9999 is the last one of the calendar.
_NO_END = 253_370_764_800.0

#: Kind, subject and end of a ban; the end is None if there is none.
Row = tuple[str, str, float | None]


class _Ban(TypedDict):
    kind: str
    subject: str
    until: float | None


class _Bans(TypedDict):
    bans: list[_Ban]


def add_arguments(bans: argparse.ArgumentParser) -> None:
    """Declare the options of `ftpsd bans`."""
    bans.set_defaults(do="list")
    add_config(bans, argparse.SUPPRESS)
    actions = bans.add_subparsers(dest="do", metavar="list | lift")
    listing = add_action(actions, "list", "list the bans (the default)", "ftpsd bans list --json")
    for parser in (bans, listing):
        parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print a JSON array")
    lift = add_action(actions, "lift", "lift the bans of an address or a user, or all bans", "ftpsd bans lift --all")
    for parser in (listing, lift):  # -c may come before or after `list` and `lift`
        add_config(parser, argparse.SUPPRESS)
    subject = lift.add_mutually_exclusive_group(required=True)
    subject.add_argument("whom", nargs="?", metavar="ADDRESS-or-USER")
    subject.add_argument("--all", action="store_true", help="lift all bans")


def run(options: argparse.Namespace) -> int:
    """List or lift bans; return the exit status."""
    config = getattr(options, "config", CONFIGURATION)
    if options.do == "lift":
        return lift(config, options.whom)
    return show(config, getattr(options, "json", False))


def show(configuration: str, as_json: bool = False) -> int:
    """Print the bans in effect, one per line or as a JSON array; return the exit status."""
    now = time.time()
    bans = _current(configuration, now)
    if as_json:
        found = [{"kind": kind, "subject": shown_subject(subject), "until": until} for kind, subject, until in bans]
        print(json.dumps(found, indent=2))
        return 0
    for kind, subject, until in bans:
        print(f"{kind:8} {shown_subject(subject):40} {_end(until, now)}")
    if not bans:
        print("Nobody is banned.", file=sys.stderr)
    return 0


def _current(configuration: str, now: float) -> list[Row]:
    try:
        with open_state_file(configuration) as state:
            bans = tables.current(state, now)
    except InMemory as reason:
        answer = cast(_Bans, _client(configuration, reason).get("bans"))
        return [(ban["kind"], ban["subject"], ban["until"]) for ban in answer["bans"]]
    return [(kind, subject, until if until is not None and until < _NO_END else None) for kind, subject, until in bans]


def _end(until: float | None, now: float) -> str:
    if until is None:
        return "permanently"
    return f"until {datetime.fromtimestamp(until).isoformat(' ', 'seconds')}, for {in_words(until - now)}"


def lift(configuration: str, whom: str | None) -> int:
    """Lift the bans of an address or a user, or all bans with None; return the exit status."""
    try:
        with open_state_file(configuration) as state:
            lifted = tables.lift(state, whom)
    except InMemory as reason:
        lifted = _lift_in_memory(_client(configuration, reason), whom)
    if not lifted:
        raise CommandFailed(f"{stored_name(whom)} is not banned" if whom else "nobody is banned")
    print(f"{lifted} lifted.")
    return 0


def _lift_in_memory(client: AdminClient, whom: str | None) -> int:
    if whom is None:
        return _lifted(client.delete("bans", all=True))
    lifted = _lifted(client.delete("bans", user=whom))
    try:
        ipaddress.ip_network(whom)
    except ValueError:
        return lifted
    return lifted + _lifted(client.delete("bans", address=whom))


def _lifted(answer: object) -> int:
    return cast(dict[str, int], answer)["lifted"]


def _client(configuration: str, reason: Unreachable) -> AdminClient:
    """Return the client for the daemon that has its bans in memory, if the configuration says where its socket is."""
    path = configured_socket(configuration)
    if path is None:
        raise reason
    return AdminClient(path)
