"""`ftpsd check`: load the configuration as the daemon does, and print its faults and warnings."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from ftpsd.accounts.sources.probe import probe_all
from ftpsd.cli.options import add_config
from ftpsd.config import load
from ftpsd.config.faults import Fault, InvalidConfiguration, dotted
from ftpsd.config.yaml import Document, read
from ftpsd.storage import stores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ftpsd check`."""
    add_config(parser)
    parser.add_argument("--online", action="store_true", help="log in to each source of users and to each store, too")
    parser.add_argument("--json", action="store_true", help="print a JSON array of faults and warnings")


def run(options: argparse.Namespace) -> int:
    """Print faults and warnings; return 0 if the daemon can use the configuration, 1 if not."""
    configuration: str = options.config
    try:
        loaded = load.load(configuration)
        if options.online:
            document = read(Path(os.path.abspath(configuration)))
            _require_sources(document, loaded)
            _require_stores(document, loaded)
            if document.faults:
                raise InvalidConfiguration(document.faults)
    except InvalidConfiguration as error:
        if options.json:
            _print_json(faults=error.faults)
        else:
            print(error, file=sys.stderr)
        return 1
    if options.json:
        _print_json(warnings=_located_warnings(configuration, loaded))
        return 0
    for warning in loaded.warnings:
        print(f"{configuration}: warning: {warning}", file=sys.stderr)
    answering = _answering(loaded) if options.online else ""
    print(f"{configuration}: good, {len(loaded.users.users)} users{answering}.")
    return 0


def _require_sources(document: Document, loaded: load.Configuration) -> None:
    """Log in to all sources. Add one fault for each that does not answer."""
    errors = probe_all(loaded.sources)
    for each in loaded.sources:
        if each.name in errors:
            remedy = "Check that the server runs, and that the entry names it and its password."
            document.fault(("users", "sources", each.index), errors[each.name], remedy)


def _require_stores(document: Document, loaded: load.Configuration) -> None:
    """List each store, and begin an upload. Add one fault for each that cannot be used; say which can only be read."""
    for name, found in stores.probe_all(loaded.stores).items():
        if found.error:
            remedy = "Check the endpoint, the bucket, the credentials and the clock of this machine."
            document.fault(("storage", name), f"cannot be used: {found.error}", remedy)
        elif found.read_only:
            problem = f"nothing can be uploaded to the store {name}: {found.read_only}"
            print(f"{document.path}: warning: {problem}", file=sys.stderr)


def _answering(loaded: load.Configuration) -> str:
    kinds = [kind for kind, each in (("sources", loaded.sources), ("stores", loaded.stores)) if each]
    return f", and all {' and '.join(kinds or ['sources'])} answer"


def _located_warnings(configuration: str, loaded: load.Configuration) -> list[Fault]:
    """Return the warnings in the form of faults, with their lines."""
    document = read(Path(os.path.abspath(configuration)))
    return [
        Fault(str(document.path), document.line(warning.key), dotted(warning.key), warning.problem, warning.remedy)
        for warning in loaded.warnings
    ]


def _print_json(faults: Iterable[Fault] = (), warnings: Iterable[Fault] = ()) -> None:
    """Print an array with one object for each fault and warning. `line` is null if the whole file is meant."""
    found = [("fault", each) for each in faults] + [("warning", each) for each in warnings]
    print(json.dumps([{"level": level, **asdict(each), "line": each.line or None} for level, each in found], indent=2))
