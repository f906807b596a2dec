"""`ftpsd ban`: refuse an address, a network or a user for a time, or until the ban is lifted."""

from __future__ import annotations

import argparse

from ftpsd.cli.admin_client import connect
from ftpsd.cli.durations import in_words, parse_duration
from ftpsd.cli.live.subjects import add_subject, warn_unless_stored
from ftpsd.cli.options import add_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ftpsd ban`."""
    add_config(parser)
    add_subject(parser)
    parser.add_argument(
        "--for", dest="seconds", type=parse_duration, metavar="TIME", help="10m, 1h, 2d (default: until it is lifted)"
    )


def run(options: argparse.Namespace) -> int:
    """Ban an address, a network or a user."""
    subject = {"address": options.address} if options.user is None else {"user": options.user}
    answer = connect(options).post("bans", {**subject, "seconds": options.seconds})
    how_long = f"for {in_words(options.seconds)}" if options.seconds else "until the ban is lifted"
    print(f"{options.address or options.user} is banned {how_long}.")
    warn_unless_stored(answer)
    return 0
