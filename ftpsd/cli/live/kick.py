"""`ftpsd kick`: end sessions, and ban those who had them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from http import HTTPStatus
from typing import cast

from ftpsd.cli.admin_client import AdminClient, Parameter, Refused, connect
from ftpsd.cli.durations import in_words, parse_duration
from ftpsd.cli.failure import CommandFailed
from ftpsd.cli.live.answers import Dismissed, Session
from ftpsd.cli.live.subjects import warn_unless_stored
from ftpsd.cli.options import add_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ftpsd kick`."""
    add_config(parser)
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("number", nargs="?", type=_number, metavar="ID", help="the number of a session (ftpsd who)")
    whom.add_argument("--user", metavar="U", help="all sessions of this user")
    whom.add_argument("--address", metavar="A", help="all sessions from this address")
    parser.add_argument("--message", metavar="M", help="what the client is told")
    parser.add_argument(
        "--ban", type=parse_duration, metavar="TIME", help="also ban the user, or with ID the address: 10m, 1h, 2d"
    )
    parser.add_argument("--now", action="store_true", help="abort a running transfer")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of a session; for a user: --user {text}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """End the sessions; return 1 if there is none, or if a worker does not answer, so that its sessions continue."""
    client = connect(options)
    if options.ban:
        _ban(client, options)
    how = {"message": options.message, "now": options.now or None}
    if options.number is not None:
        answer = _end_one(client, options.number, how)
    else:
        answer = cast(Dismissed, client.delete("sessions", user=options.user, address=options.address, **how))
    count, missing = answer["dismissed"], answer.get("missing_workers", ())
    for index in missing:
        print(f"Worker {index} does not answer: its sessions may continue.", file=sys.stderr)
    if not count and not missing:
        raise CommandFailed("no such session")
    rest = "" if options.now else " A running transfer ends first."
    print(f"{count} session{'' if count == 1 else 's'} dismissed.{rest}")
    return 1 if missing else 0


def _end_one(client: AdminClient, number: int, how: Mapping[str, Parameter]) -> Dismissed:
    try:
        return cast(Dismissed, client.delete(f"sessions/{number}", **how))
    except Refused as refused:
        if refused.code != HTTPStatus.NOT_FOUND:
            raise
        raise CommandFailed(f"there is no session {number}: `ftpsd who` lists all") from None


def _ban(client: AdminClient, options: argparse.Namespace) -> None:
    """Ban first: a client that is only dismissed connects again at once."""
    subject = {"user": options.user} if options.user is not None else {"address": _address(client, options)}
    answer = client.post("bans", {**subject, "seconds": options.ban})
    print(f"{next(iter(subject.values()))} is banned for {in_words(options.ban)}.")
    warn_unless_stored(answer)


def _address(client: AdminClient, options: argparse.Namespace) -> str:
    if options.number is None:
        return str(options.address)
    return cast(Session, client.get(f"sessions/{options.number}"))["address"]
