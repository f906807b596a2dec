"""`ftpsd page`: print a link that logs a browser in to the page for administrators, once."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TypedDict, cast

from ftpsd.cli.admin_client import AdminClient, connect, find_socket
from ftpsd.cli.failure import CommandFailed, Unreachable
from ftpsd.cli.options import add_config

#: Seconds for which a demonstration waits for its daemon, and between two attempts.
PATIENCE = 30.0
INTERVAL = 0.1


class Login(TypedDict):
    """The answer to a request for a login."""

    url: str
    seconds: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ftpsd page`."""
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(options: argparse.Namespace) -> int:
    """Print the link."""
    found = login(connect(options))
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    print(found["url"], flush=True)
    print(f"The link works once, within {found['seconds'] // 60} minutes.", file=sys.stderr)
    return 0


def print_when_ready(configuration: str) -> None:
    """Print the link when the daemon that this process is going to be has started. Return at once."""
    daemon = os.getpid()
    if os.fork() == 0:
        try:
            _wait_and_print(configuration, daemon)
        finally:
            os._exit(0)


def _wait_and_print(configuration: str, daemon: int) -> None:
    client = AdminClient(find_socket(configuration))
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and os.getppid() == daemon:
        try:
            print(f"page      {login(client)['url']} (works once)", flush=True)
            return
        except Unreachable:
            time.sleep(INTERVAL)
        except CommandFailed:
            return


def login(client: AdminClient) -> Login:
    """Return a new link."""
    return cast(Login, client.post("page/logins", {}))
