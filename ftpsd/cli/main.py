"""The command `ftpsd`: bans, check, demo, doctor, passwd. The daemon itself is `twistd ftpsd`."""

from __future__ import annotations

import argparse
import getpass
import io
import sys
import time
from collections.abc import Sequence

import ftpsd

CONFIGURATION = "/etc/ftpsd/ftpsd.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ftpsd", description="Tools of the FTPS daemon `twistd ftpsd`.")
    parser.add_argument("--version", action="version", version=f"ftpsd {ftpsd.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    config = argparse.ArgumentParser(add_help=False)  # taken before and behind the word list or lift
    config.add_argument("-c", "--config", default=argparse.SUPPRESS, help=f"default: {CONFIGURATION}")
    bans = commands.add_parser("bans", parents=[config], help="list or lift the bans that failed logins have made")
    bans.set_defaults(run=_bans, do="list")
    what = bans.add_subparsers(dest="do", metavar="list | lift")
    bans.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the list as JSON")
    shown = what.add_parser("list", parents=[config], help="list them (the default)")
    shown.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the list as JSON")
    lift = what.add_parser("lift", parents=[config], help="lift those of an address or a user, or all")
    whom = lift.add_mutually_exclusive_group(required=True)
    whom.add_argument("whom", nargs="?", metavar="ADDRESS-or-USER")
    whom.add_argument("--all", action="store_true", help="of everybody")

    check = commands.add_parser("check", help="check the configuration, the users and the certificate")
    check.add_argument("-c", "--config", default=CONFIGURATION, help="default: %(default)s")
    check.set_defaults(run=_check)

    demo = commands.add_parser("demo", help="serve at once, with a certificate and a password made for it")
    demo.add_argument("--port", type=int, help="default: what ftpsd.yaml there says, else 2121")
    demo.add_argument("--directory", default="ftpsd-demo", help="where it all lives (default: %(default)s)")
    demo.add_argument("--reset", action="store_true", help="make configuration, user and certificate anew")
    demo.set_defaults(run=_demo)

    _add_doctor(commands)

    passwd = commands.add_parser("passwd", help="print the hash of a password, for users.yaml")
    passwd.set_defaults(run=_passwd)
    return parser


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from ftpsd.cli.doctor import command

    doctor = commands.add_parser("doctor", help="find out why clients cannot connect, log in or transfer")
    command.add_arguments(doctor)
    doctor.set_defaults(run=command.run)


def _bans(options: argparse.Namespace) -> int:
    from ftpsd.cli import bans

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may be any that clients say
    config = getattr(options, "config", CONFIGURATION)
    return (
        bans.lift(config, options.whom) if options.do == "lift" else bans.show(config, getattr(options, "json", False))
    )


def _check(options: argparse.Namespace) -> int:
    from ftpsd.config import load
    from ftpsd.config.faults import InvalidConfiguration

    try:
        configuration = load.load(options.config)
    except InvalidConfiguration as error:
        print(error, file=sys.stderr)
        return 1
    for warning in load.warnings(configuration, time.time()):
        print(f"{options.config}: warning: {warning}", file=sys.stderr)
    print(f"{options.config}: good, {len(configuration.users.users)} users.")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from ftpsd.cli import demo

    return demo.run(options.directory, options.port, options.reset)


def _passwd(_: argparse.Namespace) -> int:
    from ftpsd.accounts import hashes

    password = _ask() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if not password or len(password.encode()) > hashes.LONGEST_PASSWORD:
        print(f"ftpsd passwd: 1 to {hashes.LONGEST_PASSWORD} bytes, please.", file=sys.stderr)
        return 1
    print(hashes.make(password))
    return 0


def _ask() -> str:
    password = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != password:
        print("ftpsd passwd: the two differ.", file=sys.stderr)
        raise SystemExit(1)
    return password
