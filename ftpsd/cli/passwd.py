"""`ftpsd passwd`: read a password and print its hash."""

from __future__ import annotations

import argparse
import getpass
import sys

from ftpsd.accounts import hashes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`ftpsd passwd` has no options."""


def run(_: argparse.Namespace) -> int:
    """Ask for a password twice, or read one line of standard input; return the exit status."""
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Repeat the password: ") != password:
            return _fail("the passwords differ")
    else:
        # Bytes: a client may send a password that is not UTF-8.
        line = sys.stdin.buffer.readline(hashes.LONGEST_PASSWORD + 2)
        password = line.removesuffix(b"\n").decode("utf-8", "surrogateescape")
    if not password:
        return _fail("the password is empty")
    if "\0" in password:
        return _fail("the password contains a NUL byte")
    if len(password.encode("utf-8", "surrogateescape")) > hashes.LONGEST_PASSWORD:
        return _fail(f"the password has more than {hashes.LONGEST_PASSWORD} bytes")
    print(hashes.make(password))
    return 0


def _fail(problem: str) -> int:
    print(f"ftpsd passwd: {problem}", file=sys.stderr)
    return 1
