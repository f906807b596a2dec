"""`ftpsd sql`: make and migrate the tables of ftpsd in the databases that the configuration names."""

from __future__ import annotations

import argparse
import json

from ftpsd.cli.failure import CommandFailed
from ftpsd.cli.options import add_action, add_config
from ftpsd.cli.sql.tables import open_tables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of `ftpsd sql` and their options."""
    actions = parser.add_subparsers(required=True, metavar="action")
    for name, create, summary in (
        ("init", True, "make the tables for users"),
        ("migrate", False, "bring the tables to the version of this release"),
    ):
        action = add_action(actions, name, summary, f"ftpsd sql {name}")
        action.set_defaults(create=create, prog=action.prog)
        add_config(action)
        action.add_argument("--json", action="store_true", help="print a JSON array with the versions of the tables")


def run(options: argparse.Namespace) -> int:
    """Make or migrate the tables of all sources that use them; return the exit status."""
    tables = open_tables(options.config)
    if not tables:
        raise CommandFailed("no source has type: sql without find: see docs/users-sql.md")
    done = [(table, *table.migrate(options.create)) for table in tables]
    if options.json:
        shown = [{"source": table.name, "before": before, "version": after} for table, before, after in done]
        print(json.dumps(shown, indent=2))
        return 0
    for table, before, after in done:
        change = f"are at version {after} already" if before == after else f"are now at version {after}"
        print(f"{table.place}: the tables {change}.")
    return 0
