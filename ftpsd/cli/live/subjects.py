"""Who is banned: the arguments of `ftpsd ban` and `ftpsd unban`."""

from __future__ import annotations

import argparse
import ipaddress
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


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        reason = str(error) if "host bits" in str(error) else f"{text!r} is neither an address nor a network"
        raise argparse.ArgumentTypeError(f"{reason}; for a user: --user {text}") from None
    return text
