"""`ftpsd passwd`: read a password and print its hash."""

from __future__ import annotations

import argparse
import sys

from ftpsd.accounts import hashes
from ftpsd.cli.user import passwords


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`ftpsd passwd` has no options."""


def run(_: argparse.Namespace) -> int:
    """Ask for a password twice, or read one line of standard input; return the exit status."""
    password = passwords.from_terminal() if sys.stdin.isatty() else passwords.from_standard_input()
    print(hashes.make(password))
    return 0
