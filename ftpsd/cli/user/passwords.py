"""Read or generate passwords for users. They are never on a command line, which other users of the machine can see."""

from __future__ import annotations

import argparse
import getpass
import secrets
import sys

from ftpsd.accounts import hashes
from ftpsd.accounts.hashes import LONGEST_PASSWORD
from ftpsd.cli.failure import CommandFailed, WrongUsage
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration

#: Letters and digits that nobody takes for each other: 32 of them, so each has 5 bits.
_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"

#: Groups of a generated password, and letters of each: 100 bits.
_GROUPS, _GROUP = 4, 5


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare where the password comes from; without an option, from the terminal."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    source.add_argument("--generate", action="store_true", help="generate a password, and print it once")
    parser.add_argument("--json", action="store_true", help="print a JSON object, with a generated password")


def choose(options: argparse.Namespace) -> str:
    """Return the new password that the options ask for. Raises CommandFailed."""
    if options.generate:
        return generate()
    if options.password_stdin:
        return from_standard_input()
    if not sys.stdin.isatty():
        raise WrongUsage("there is no terminal to ask for the password: use --password-stdin or --generate")
    return from_terminal()


def hashed(password: str, configuration: str) -> str:
    """Return a new hash with the parameters of a configuration. Raises CommandFailed if they cannot be used."""
    try:
        return hashes.make(password, load.load_passwords(configuration))
    except InvalidConfiguration as error:
        raise CommandFailed(str(error)) from None


def generate() -> str:
    """Return a new random password."""
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(_GROUP)) for _ in range(_GROUPS))


def from_terminal() -> str:
    """Ask for a password twice."""
    try:
        password = getpass.getpass("Password: ")
        if getpass.getpass("Repeat the password: ") != password:
            raise CommandFailed("the passwords differ")
    except EOFError:
        raise CommandFailed("no password was entered") from None
    return _checked(password)


def from_standard_input() -> str:
    """Read one line, as bytes: a client may send a password that is not UTF-8."""
    line = sys.stdin.buffer.readline(LONGEST_PASSWORD + 2)
    return _checked(line.removesuffix(b"\n").decode("utf-8", "surrogateescape"))


def _checked(password: str) -> str:
    if not password:
        raise CommandFailed("the password is empty")
    if "\0" in password:
        raise CommandFailed("the password contains a NUL byte")
    if len(password.encode("utf-8", "surrogateescape")) > LONGEST_PASSWORD:
        raise CommandFailed(f"the password has more than {LONGEST_PASSWORD} bytes")
    return password
