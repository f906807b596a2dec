"""`ftpsd unban`: lift bans. `ftpsd bans lift` does the same while the daemon does not run."""

from __future__ import annotations

import argparse
from typing import cast

from ftpsd.cli.admin_client import connect
from ftpsd.cli.failure import CommandFailed
from ftpsd.cli.live.subjects import add_subject, warn_unless_stored
from ftpsd.cli.options import add_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ftpsd unban`."""
    add_config(parser)
    subject = add_subject(parser)
    subject.add_argument("--all", action="store_true", help="lift all bans")


def run(options: argparse.Namespace) -> int:
    """Lift bans; return 1 if there was none."""
    answer = connect(options).delete("bans", address=options.address, user=options.user, all=options.all or None)
    lifted = cast(dict[str, int], answer)["lifted"]
    stored = warn_unless_stored(answer)
    if stored and not lifted:
        raise CommandFailed("nobody is banned" if options.all else f"{options.address or options.user} is not banned")
    print(f"{lifted} lifted.")
    return 0
