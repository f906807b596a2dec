"""The command line of `ftpsd`: one row of COMMANDS for each command. The daemon is `twistd ftpsd`.

The module of a command has `add_arguments(parser)` and `run(options) -> int`. It is imported only when its command is
named: the libraries for TLS and YAML take 0.3 s to import. `run` may raise CommandFailed.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import ftpsd
from ftpsd.cli.failure import CommandFailed
from ftpsd.cli.options import describe


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its name, its module below `ftpsd.cli`, what it does, and a command line that works."""

    name: str
    module: str
    summary: str
    example: str


COMMANDS = (
    Command("ban", "live.ban", "refuse an address, a network or a user", "ftpsd ban 192.0.2.0/24 --for 2d"),
    Command("bans", "bans", "list or lift bans", "ftpsd bans lift 192.0.2.7"),
    Command("check", "check", "check configuration, users and certificate", "ftpsd check -c /etc/ftpsd/ftpsd.yaml"),
    Command(
        "container",
        "serve.container",
        "run the daemon in a container, with users from its environment",
        "FTPSD_USER_alice_PASSWORD_FILE=/run/secrets/alice ftpsd container",
    ),
    Command(
        "deliver",
        "deliver",
        "deliver events to webhooks and programs",
        "ftpsd deliver -c /etc/ftpsd/ftpsd.yaml",
    ),
    Command(
        "demo",
        "serve.demo",
        "start a demonstration server with a new certificate and password",
        "ftpsd demo --port 2121 --directory /tmp/demo",
    ),
    Command(
        "doctor",
        "doctor.command",
        "find out why clients cannot connect, log in or transfer",
        "ftpsd doctor --from ftp.example.com --user alice",
    ),
    Command("events", "live.events", "show events as they happen", "ftpsd events --event upload,upload_failed"),
    Command("kick", "live.kick", "end sessions", "ftpsd kick --user alice --message 'Maintenance.' --ban 1h"),
    Command("page", "page", "print a link that logs a browser in to the page, once", "ftpsd page"),
    Command("passwd", "passwd", "print the hash of a password, for users.yaml", "ftpsd passwd < password.txt"),
    Command("reload", "live.reload", "load the configuration again, and print its faults", "ftpsd reload"),
    Command("sql", "sql.command", "make or migrate the tables for users in SQL", "ftpsd sql init"),
    Command("status", "live.status", "show the state of the daemon", "ftpsd status"),
    Command("top", "top.command", "show the sessions live, with their progress", "ftpsd top --transfers --sort rate"),
    Command("unban", "live.unban", "lift the ban of an address, a network or a user", "ftpsd unban --user alice"),
    Command("user", "user.command", "add, change, remove and show users", "ftpsd user add alice"),
    Command("who", "live.who", "list the sessions", "ftpsd who --user alice --sort rate"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status: 0 success, 1 negative answer, 2 usage error, 3 daemon out of reach."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = make_parser({word for word in words if not word.startswith("-")}).parse_args(words)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Clients choose names of users and files: what they send may be no valid text.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = int(options.run(options))
        sys.stdout.flush()
    except CommandFailed as failure:
        print(f"{options.prog}: {failure}", file=sys.stderr)
        return failure.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `ftpsd who | head`: the interpreter must not flush into the pipe again when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


def make_parser(named: Collection[str]) -> argparse.ArgumentParser:
    """Return the parser. Only the commands in `named` are imported and get their arguments."""
    parser = argparse.ArgumentParser(
        prog="ftpsd", description="Tools for the FTPS daemon `twistd ftpsd`. See ftpsd(8)."
    )
    parser.add_argument("--version", action="version", version=f"ftpsd {ftpsd.__version__}")
    parsers = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        its = parsers.add_parser(command.name, help=command.summary, **describe(command.summary, command.example))
        if command.name in named:
            module = importlib.import_module(f"ftpsd.cli.{command.module}")
            its.set_defaults(run=module.run, prog=its.prog)
            module.add_arguments(its)
    return parser
