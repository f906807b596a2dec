"""`ftpsd check`: load the configuration as the daemon does, and print its faults and warnings."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from ftpsd.accounts.sources.probe import probe_all
from ftpsd.cli.options import add_config
from ftpsd.config import load
from ftpsd.config.faults import Fault, InvalidConfiguration, dotted
from ftpsd.config.yaml import Document, read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ftpsd check`."""
    add_config(parser)
    parser.add_argument("--online", action="store_true", help="log in to each source of users, too")
    parser.add_argument("--json", action="store_true", help="print a JSON array of faults and warnings")


def run(options: argparse.Namespace) -> int:
    """Print faults and warnings; return 0 if the daemon can use the configuration, 1 if not."""
    configuration: str = options.config
    try:
        loaded = load.load(configuration)
        if options.online:
            _require_sources(configuration, loaded)
    except InvalidConfiguration as error:
        if options.json:
            _print_json(faults=error.faults)
        else:
            print(error, file=sys.stderr)
        return 1
    if options.json:
        _print_json(warnings=_located_warnings(configuration, loaded))
        return 0
    for warning in load.warnings(loaded, time.time()):
        print(f"{configuration}: warning: {warning}", file=sys.stderr)
    answering = ", and all sources answer" if options.online else ""
    print(f"{configuration}: good, {len(loaded.users.users)} users{answering}.")
    return 0


def _require_sources(configuration: str, loaded: load.Configuration) -> None:
    """Log in to all sources. Raises InvalidConfiguration with one fault for each that does not answer."""
    document = Document(Path(os.path.abspath(configuration)))
    errors = probe_all(loaded.sources)
    if errors:
        document = read(document.path)
    for each in loaded.sources:
        if each.name in errors:
            remedy = "Check that the server runs, and that the entry names it and its password."
            document.fault(("users", "sources", each.index), errors[each.name], remedy)
    if document.faults:
        raise InvalidConfiguration(document.faults)


def _located_warnings(configuration: str, loaded: load.Configuration) -> list[Fault]:
    """Return the warnings in the form of faults, with their lines."""
    document = read(Path(os.path.abspath(configuration)))
    return [
        Fault(str(document.path), document.line(warning.key), dotted(warning.key), warning.problem, warning.remedy)
        for warning in load.warnings(loaded, time.time())
    ]


def _print_json(faults: Iterable[Fault] = (), warnings: Iterable[Fault] = ()) -> None:
    """Print an array with one object for each fault and warning. `line` is null if the whole file is meant."""
    found = [("fault", each) for each in faults] + [("warning", each) for each in warnings]
    print(json.dumps([{"level": level, **asdict(each), "line": each.line or None} for level, each in found], indent=2))
