"""`ftpsd reload`: load the configuration again, and say what came of it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from typing import TypedDict, cast

from ftpsd.cli import text
from ftpsd.cli.admin_client import Refused, UnknownSocket, configured_socket, connect
from ftpsd.cli.failure import Unreachable
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
    parser.add_argument(
        "--pid", type=_pid, metavar="PID", help="if no admin socket is configured, send SIGHUP to this process"
    )


def _pid(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a process")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Load the configuration again; return 1 if it has a fault, and print all faults."""
    if options.pid is not None and configured_socket(options.config) is None:
        return _signal(options.pid)
    try:
        loaded = cast(Loaded, connect(options).post("reload", {}, PATIENCE))
    except UnknownSocket as unknown:
        return _show_faults(unknown.faults, options.json)  # those that the daemon would find
    except Refused as refused:
        if not refused.faults:
            raise
        return _show_faults(refused.faults, options.json)
    if options.json:
        print(json.dumps(loaded, indent=2))
        return 0
    for warning in loaded["warnings"]:
        print(f"warning: {text.clean(warning)}", file=sys.stderr)
    print("Reloaded: new sessions use the new configuration.")
    return 0


def _signal(process: int) -> int:
    try:
        os.kill(process, signal.SIGHUP)
    except (OSError, OverflowError) as error:
        raise Unreachable(f"process {process} cannot be signalled: {error}") from None
    print("No admin socket is configured: sent SIGHUP. The log says how the reload ended.")
    return 0


def _show_faults(faults: tuple[str, ...], as_json: bool) -> int:
    if as_json:
        print(json.dumps({"ok": False, "faults": faults}, indent=2))
        return 1
    print("\n".join(faults), file=sys.stderr)
    print("ftpsd reload: the old configuration remains in effect.", file=sys.stderr)
    return 1
