"""The options of `ftpsd user`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ftpsd.cli.options import Actions, add_action, add_config
from ftpsd.cli.user import change, passwords, show, totp

Run = Callable[[argparse.Namespace], int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of `ftpsd user` and their options."""
    actions = parser.add_subparsers(required=True, metavar="action")
    add = _add(actions, change.add, "add", "add a user with a home", "ftpsd user add alice --set quota.bytes=10G")
    add.add_argument("--source", metavar="SOURCE", help="add the user to the database of this source, for example sql")
    passwords.add_options(add)
    _add_keys(add)
    passwd = _add(actions, change.passwd, "passwd", "give a user a new password", "ftpsd user passwd alice --generate")
    passwords.add_options(passwd)
    code = _add(actions, totp.totp, "totp", "require one-time passwords of a user", "ftpsd user totp alice")
    totp.add_options(code)
    change_keys = _add(
        actions, change.set_keys, "set", "change keys of a user", "ftpsd user set alice --set limits.sessions=5"
    )
    _add_keys(change_keys)
    change_keys.add_argument(
        "--unset", action="append", default=[], metavar="KEY", help="remove a key, so that the default holds again"
    )
    enable = _add(actions, change.enable, "enable", "let a user log in again", "ftpsd user enable alice")
    disable = _add(actions, change.disable, "disable", "let a user log in no more", "ftpsd user disable alice")
    remove = _add(actions, change.remove, "remove", "remove a user", "ftpsd user remove alice --delete-home")
    remove.add_argument("--delete-home", action="store_true", help="delete the home and all files in it, too")
    remove.add_argument("--yes", action="store_true", help="do not ask for a confirmation")
    showing = _add(actions, show.show, "show", "show a user", "ftpsd user show alice")
    for each in (change_keys, enable, disable, remove, showing):
        each.add_argument("--json", action="store_true", help="print a JSON object")
    listing = add_action(actions, "list", "list all users", "ftpsd user list --json")
    listing.set_defaults(action=show.list_users, prog=listing.prog)
    add_config(listing)
    listing.add_argument("--json", action="store_true", help="print a JSON array")


def run(options: argparse.Namespace) -> int:
    """Run the action; return the exit status."""
    action: Run = options.action
    return action(options)


def _add(actions: Actions, action: Run, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    parser = add_action(actions, name, summary, example)
    parser.set_defaults(action=action, prog=parser.prog)
    add_config(parser)
    parser.add_argument("name", metavar="NAME", help="the name of the user")
    return parser


def _add_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--home", metavar="DIRECTORY", help="the user's root; it is created if it is missing")
    parser.add_argument("--permissions", metavar="P", help="read-only, read-write, upload-only, or list,download,…")
    parser.add_argument(
        "--group", action="append", default=[], metavar="NAME", help="a group of the user; may be given several times"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of ftpsd-users.yaml(5), for example limits.sessions=5; the value is YAML",
    )
