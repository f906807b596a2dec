"""The command line of `ftpsd`: bans, check, demo, doctor and passwd. The daemon is `twistd ftpsd`."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from typing import TypeAlias

import ftpsd

CONFIGURATION = "/etc/ftpsd/ftpsd.yaml"

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status: 0 success, 1 negative answer, 2 usage error, 3 daemon out of reach."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ftpsd", description="Tools for the FTPS daemon `twistd ftpsd`. See ftpsd(8)."
    )
    parser.add_argument("--version", action="version", version=f"ftpsd {ftpsd.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_bans(commands)
    _add_check(commands)
    _add_demo(commands)
    _add_doctor(commands)
    _add_passwd(commands)
    return parser


def _add(commands: Commands, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    """Add a command whose help ends with an example."""
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_bans(commands: Commands) -> None:
    bans = _add(commands, "bans", "list or lift bans after failed logins", "ftpsd bans lift 192.0.2.7")
    bans.set_defaults(run=_bans, do="list")
    _add_config(bans, argparse.SUPPRESS)
    actions = bans.add_subparsers(dest="do", metavar="list | lift")
    listing = _add(actions, "list", "list the bans (the default)", "ftpsd bans list --json")
    for parser in (bans, listing):
        parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print a JSON array")
    lift = _add(actions, "lift", "lift the bans of an address or a user, or all bans", "ftpsd bans lift --all")
    for parser in (listing, lift):  # -c may come before or after `list` and `lift`
        _add_config(parser, argparse.SUPPRESS)
    subject = lift.add_mutually_exclusive_group(required=True)
    subject.add_argument("whom", nargs="?", metavar="ADDRESS-or-USER")
    subject.add_argument("--all", action="store_true", help="lift all bans")


def _add_check(commands: Commands) -> None:
    check = _add(
        commands, "check", "check configuration, users and certificate", "ftpsd check -c /etc/ftpsd/ftpsd.yaml"
    )
    _add_config(check, CONFIGURATION)
    check.add_argument("--json", action="store_true", help="print a JSON array of faults and warnings")
    check.set_defaults(run=_check)


def _add_demo(commands: Commands) -> None:
    summary = "start a demonstration server with a new certificate and password"
    demo = _add(commands, "demo", summary, "ftpsd demo --port 2121 --directory /tmp/demo")
    demo.add_argument("--port", type=_port, metavar="N", help="default: the port in the demo's ftpsd.yaml, or 2121")
    demo.add_argument("--directory", default="ftpsd-demo", help="where all its files are (default: %(default)s)")
    demo.add_argument("--reset", action="store_true", help="create configuration, user and certificate again")
    demo.set_defaults(run=_demo)


def _add_passwd(commands: Commands) -> None:
    passwd = _add(commands, "passwd", "print the hash of a password, for users.yaml", "ftpsd passwd < password.txt")
    passwd.set_defaults(run=_passwd)


def _add_config(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("-c", "--config", default=default, help=f"the configuration (default: {CONFIGURATION})")


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError("write a number from 1 to 65535")
    return int(text)


def _add_doctor(commands: Commands) -> None:
    from ftpsd.cli.doctor import command

    doctor = commands.add_parser("doctor", help="find out why clients cannot connect, log in or transfer")
    command.add_arguments(doctor)
    doctor.set_defaults(run=command.run)


# Each command imports its module when it runs: libraries for TLS and YAML take 0.3 s to import.


def _bans(options: argparse.Namespace) -> int:
    from ftpsd.cli import bans

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A client chooses the name that is banned: it may be no valid text.
        sys.stdout.reconfigure(errors="backslashreplace")
    config = getattr(options, "config", CONFIGURATION)
    if options.do == "lift":
        return bans.lift(config, options.whom)
    return bans.show(config, getattr(options, "json", False))


def _check(options: argparse.Namespace) -> int:
    from ftpsd.cli import check

    return check.run(options.config, options.json)


def _demo(options: argparse.Namespace) -> int:
    from ftpsd.cli import demo

    return demo.run(options.directory, options.port, options.reset)


def _passwd(_: argparse.Namespace) -> int:
    from ftpsd.cli import passwd

    return passwd.run()
