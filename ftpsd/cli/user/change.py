"""Change users: add, passwd, set, enable, disable, remove."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ftpsd.cli.failure import CommandFailed, WrongUsage
from ftpsd.cli.sql.tables import Table, named
from ftpsd.cli.user import home, passwords, unit
from ftpsd.cli.user.commit import commit, report
from ftpsd.cli.user.known import homes_of_sources
from ftpsd.cli.user.reloading import Result
from ftpsd.cli.user.users import Users, check_name, open_users
from ftpsd.cli.user.values import Values, assignment, change, permissions, text
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.sections.storage import is_in_store
from ftpsd.config.sections.values import Value


def add(options: argparse.Namespace) -> int:
    """Add a user: make the home, and write the file."""
    name = options.name
    check_name(name)
    values = change({}, _assigned(options))
    users = open_users(options.config)
    table = None if options.source is None else named(users.tables, options.source)
    users.require_new(name)
    password = None if "password" in values else passwords.choose(options)
    create(users, name, values, password, table)
    return finish(users, password if options.generate else None, _json_of(options))


def create(users: Users, name: str, values: Values, password: str | None, table: Table | None = None) -> None:
    """Add a user with these keys, a password unless they have its hash, and a home. Raises CommandFailed."""
    new = values if password is None else {"password": passwords.hashed(password, users.configuration), **values}
    made: list[str] = []

    def add_new(_: Values | None) -> Values:
        users.require_new(name)
        made.extend(_make_home(users, name, new))
        return new

    _store(users, name, table, add_new, lambda: home.unmake(made))
    users.notes.insert(0, f"{name} is added: {users.directory.file(name) if table is None else table.place}")


def _store(
    users: Users,
    name: str,
    table: Table | None,
    edit: Callable[[Values | None], Values | None],
    undo: Callable[[], None] = lambda: None,
) -> None:
    """Change the keys of a user in a table, or in a file without one. None stands for no user."""

    def edit_file(data: bytes | None) -> bytes | None:
        values = edit(None if data is None else users.values(name, data))
        return None if values is None else text(values)

    if table is None:
        commit(users, name, edit_file, undo)
    else:
        table.change(name, edit, undo)
        users.changed = table


def _make_home(users: Users, name: str, values: Values) -> list[str]:
    path = users.home(name, values)
    if path is None:
        raise CommandFailed("the user needs a home: use --home DIRECTORY, or set defaults.home in users.yaml")
    if is_in_store(path):
        users.notes.append(f"The home is {path}.")
        return _make_folders(users, name, values)
    path = os.path.normpath(path)
    made = home.make(path)
    try:
        folders = _make_folders(users, name, values)
    except BaseException:
        home.unmake(made)
        raise
    users.notes.append(f"The home is {path}." if made else f"The home is {path}, which existed already.")
    owner = None if made else home.foreign_owner(path)
    if owner is not None:
        users.notes.append(f"It belongs to {owner}: make sure that the daemon can write to it.")
    advice = unit.needs(users.configuration, path)
    if advice is not None:
        users.restart_first = True
        users.notes.append(advice)
    return made + folders


def _make_folders(users: Users, name: str, values: Values) -> list[str]:
    """Make the directories of a user's own folders that do not exist. Return what was made."""
    made: list[str] = []
    try:
        for each in users.own_folders(name, values):
            if not os.path.isdir(each):
                made += home.make(os.path.normpath(each))
    except BaseException:
        home.unmake(made)
        raise
    return made


def passwd(options: argparse.Namespace) -> int:
    """Give a user a new password."""
    users = open_users(options.config)
    users.find_table(options.name)
    password = passwords.choose(options)
    hashed = passwords.hashed(password, users.configuration)
    edit(users, options.name, lambda values: change(values, [("password", hashed)]))
    users.notes.insert(0, f"{options.name} has a new password.")
    return finish(users, password if options.generate else None, _json_of(options))


def set_keys(options: argparse.Namespace) -> int:
    """Set and remove keys of a user."""
    assigned = _assigned(options)
    if not assigned and not options.unset:
        raise WrongUsage("nothing to change: use --set KEY=VALUE, --unset KEY, --group, --home or --permissions")
    users = open_users(options.config)

    def with_keys(values: Values) -> Values:
        changed = change(values, assigned, options.unset)
        if users.home(options.name, changed) != users.home(options.name, values):
            made.extend(_make_home(users, options.name, changed))
        elif users.own_folders(options.name, changed) != users.own_folders(options.name, values):
            made.extend(_make_folders(users, options.name, changed))
        return changed

    made: list[str] = []
    edit(users, options.name, with_keys, lambda: home.unmake(made))
    users.notes.insert(0, f"{options.name} is changed.")
    return finish(users, json_of=_json_of(options))


def enable(options: argparse.Namespace) -> int:
    """Let a user log in again."""
    return _enable(options, True, "may log in again")


def disable(options: argparse.Namespace) -> int:
    """Let a user log in no more."""
    return _enable(options, False, "can no longer log in; running sessions continue")


def _enable(options: argparse.Namespace, value: bool, effect: str) -> int:
    users = open_users(options.config)
    edit(users, options.name, lambda values: change(values, [("enabled", value)]))
    users.notes.insert(0, f"{options.name} {effect}.")
    return finish(users, json_of=_json_of(options))


def edit(users: Users, name: str, edit: Callable[[Values], Values], undo: Callable[[], None] = lambda: None) -> None:
    """Change the keys of a user."""

    def edit_known(values: Values | None) -> Values:
        if values is None:
            raise CommandFailed(f"there is no user {name}")
        return edit(values)

    _store(users, name, users.find_table(name), edit_known, undo)


def _assigned(options: argparse.Namespace) -> list[tuple[str, Value]]:
    assigned = [assignment(word) for word in options.set]
    if options.home is not None:
        assigned.append(("home", os.path.abspath(options.home)))
    if options.permissions is not None:
        assigned.append(("permissions", permissions(options.permissions)))
    if options.group:
        assigned.append(("groups", list(options.group)))
    return assigned


# --- remove ----------------------------------------------------------------------------------------


def remove(options: argparse.Namespace) -> int:
    """Remove a user, and with `--delete-home` the home."""
    name = options.name
    users = open_users(options.config)
    table = users.find_table(name)
    path, folders = _places_of(users, name, table)
    if options.delete_home and path is not None and is_in_store(path):
        raise CommandFailed(f"{path} is in a store: delete it there, and remove the user without --delete-home")
    if options.delete_home and path is None:
        raise CommandFailed("the home is not known: correct the file first, or remove the user without --delete-home")
    if options.delete_home and not options.yes:
        _confirm(name, str(path))

    def nothing(_: object) -> None:
        users.find_table(name)  # fails if another command has removed the user meanwhile

    if table is None:
        commit(users, name, nothing)  # a broken file can be removed, too
    else:
        _store(users, name, table, nothing)
    users.notes.insert(0, f"{name} is removed. Running sessions continue.")
    try:
        if options.delete_home:
            _delete_home(users, str(path))
            users.notes.append(f"{path} is deleted.")
        elif path is not None:
            users.notes.append(f"The home {path} is kept.")
        users.notes += [f"The folder {each} is kept." for each in filter(os.path.isdir, folders)]
    finally:  # the user is removed, also if the home is kept
        status = finish(users, json_of=_json_of(options))
    return status


def _places_of(users: Users, name: str, table: Table | None) -> tuple[str | None, list[str]]:
    """Return the home of a user, if it is known, and the directories of the user's own folders."""
    try:
        values = users.values(name, users.require_file(name)) if table is None else table.values(name)
        return users.home(name, values or {}), users.own_folders(name, values or {})
    except CommandFailed:
        return None, []  # a broken file can be removed, too


def _confirm(name: str, path: str) -> None:
    if not sys.stdin.isatty():
        raise WrongUsage("there is no terminal to ask for a confirmation: add --yes")
    try:
        answer = input(f"Delete {path} with all files in it? Type the name of the user: ")
    except EOFError:
        answer = ""
    if answer != name:
        raise CommandFailed("nothing was changed")


def _delete_home(users: Users, path: str) -> None:
    """Delete a home that no user of any source needs. It is kept if a source does not tell all homes and folders."""
    try:
        configuration = load.load(users.configuration)
    except InvalidConfiguration:
        raise CommandFailed(f"{path} is kept: the configuration has faults, so other users may have it") from None
    try:
        others = homes_of_sources(configuration)
    except CommandFailed as error:
        raise CommandFailed(f"{path} is kept: {error}") from None
    real = os.path.realpath(path)
    files = [Path(users.configuration), configuration.settings.users.file, users.directory.path / "NAME.yaml"]
    needed = [*configuration.users.homes.all, *others, *map(os.path.realpath, files)]
    inside = next((each for each in needed if each == real or each.startswith(f"{real.rstrip('/')}/")), None)
    if inside is not None or Path(real).parent == Path("/"):
        raise CommandFailed(f"{path} is kept: it {f'contains {inside}' if inside else 'is not a home of one user'}")
    home.delete(os.path.normpath(path))


def _json_of(options: argparse.Namespace) -> str | None:
    """Return the user whose JSON is wanted."""
    return str(options.name) if options.json else None


def finish(users: Users, password: str | None = None, json_of: str | None = None) -> int:
    """Print what was done, and a generated password; return the exit status.

    With the name `json_of`, print it as a JSON object about this user.
    """
    done = users.reload
    result = Result.UNREACHABLE if done is None else done.result
    if json_of is not None:
        loaded = (users.changed is not None or result is Result.LOADED) and not users.restart_first
        form = {"name": json_of, "file": users.place(json_of), "loaded": loaded, "notes": users.notes}
        print(json.dumps(form if password is None else {**form, "password": password}, indent=2))
    else:
        print("\n".join(users.notes))
        if password is not None:
            print(f"The password is: {password}")
    if users.restart_first:
        return 0
    if users.changed is not None:
        if json_of is None:
            print("It holds from the next login on.")
        return 0
    if done is not None and result is Result.REFUSED:
        report(done.faults)
        text = "it is stored, but the daemon cannot load it before these faults are corrected"
        print(f"ftpsd user: {text}", file=sys.stderr)
        return 1
    if json_of is None:
        is_service = os.path.abspath(users.configuration) == load.DEFAULT
        command = "systemctl reload ftpsd" if is_service else "send it SIGHUP"
        print("The daemon has loaded it." if result is Result.LOADED else f"Load it into the daemon: {command}")
    return 0
