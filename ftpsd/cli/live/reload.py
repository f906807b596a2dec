"""`ftpsd reload`: load the configuration again, and say what came of it."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TypedDict, cast

from ftpsd.cli import text
from ftpsd.cli.admin_client import Refused, connect
from ftpsd.cli.options import add_config

#: Seconds for the load. systemd gives ExecReload 90.
PATIENCE = 80.0


class Loaded(TypedDict):
    """The answer to a reload that succeeded."""

    ok: bool
    warnings: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ftpsd reload`."""
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(options: argparse.Namespace) -> int:
    """Load the configuration again; return 1 if it has a fault, and print all faults."""
    try:
        loaded = cast(Loaded, connect(options).post("reload", {}, PATIENCE))
    except Refused as refused:
        return _show_faults(refused, options.json)
    if options.json:
        print(json.dumps(loaded, indent=2))
        return 0
    for warning in loaded["warnings"]:
        print(f"warning: {text.clean(warning)}", file=sys.stderr)
    print("Reloaded: new sessions use the new configuration.")
    return 0


def _show_faults(refused: Refused, as_json: bool) -> int:
    if not refused.faults:
        raise refused
    if as_json:
        print(json.dumps({"ok": False, "faults": refused.faults}, indent=2))
        return refused.status
    print("\n".join(refused.faults), file=sys.stderr)
    print("ftpsd reload: the old configuration remains in effect.", file=sys.stderr)
    return refused.status
