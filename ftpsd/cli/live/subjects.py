"""Who is banned: the arguments of `ftpsd ban` and `ftpsd unban`."""

from __future__ import annotations

import argparse
import ipaddress
import sys
from typing import TypeAlias

Group: TypeAlias = "argparse._MutuallyExclusiveGroup"


def add_subject(parser: argparse.ArgumentParser) -> Group:
    """Add an address, a network or a user, of which the command needs exactly one."""
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument(
        "address", nargs="?", type=_network, metavar="ADDRESS-or-NETWORK", help="for example 192.0.2.7 or 192.0.2.0/24"
    )
    subject.add_argument("--user", metavar="U", help="a user, from all addresses")
    return subject


def warn_unless_stored(answer: object) -> bool:
    """Return whether a change of bans survives a restart of the daemon; say so on standard error if not."""
    stored = isinstance(answer, dict) and answer.get("stored") is not False
    if not stored:
        print(
            "The state file cannot be read or written now. The daemon changes it when it can; if it restarts before, "
            "repeat this.",
            file=sys.stderr,
        )
    return stored


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        reason = str(error) if "host bits" in str(error) else f"{text!r} is neither an address nor a network"
        raise argparse.ArgumentTypeError(f"{reason}; for a user: --user {text}") from None
    return text
