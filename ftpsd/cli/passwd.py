"""`ftpsd passwd`: read a password and print its hash."""

from __future__ import annotations

import argparse
import os
import sys

from ftpsd.accounts import hashes
from ftpsd.cli.failure import CommandFailed
from ftpsd.cli.options import CONFIGURATION, add_config
from ftpsd.cli.user import passwords
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.sections.passwords import PasswordSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ftpsd passwd`."""
    add_config(parser)


def run(options: argparse.Namespace) -> int:
    """Ask for a password twice, or read one line of standard input; return the exit status."""
    cost = _cost(options.config)
    password = passwords.from_terminal() if sys.stdin.isatty() else passwords.from_standard_input()
    print(hashes.make(password, cost))
    return 0


def _cost(configuration: str) -> PasswordSettings:
    """Return the section `passwords`.

    A user who cannot read the configuration of the service may make a hash, too: then the defaults hold.
    """
    try:
        return load.load_passwords(configuration)
    except InvalidConfiguration as error:
        if configuration != CONFIGURATION:
            raise CommandFailed(str(error)) from None
        if os.path.exists(configuration):
            print(f"ftpsd passwd: {configuration} cannot be used: the default parameters hold", file=sys.stderr)
        return PasswordSettings()
