"""Let the running daemon load a change of the users: reload."""

from __future__ import annotations

import os
from enum import Enum

from attrs import frozen

from ftpsd.cli.admin_client import SERVICE_SOCKET, AdminClient, Refused, find_socket
from ftpsd.cli.failure import Unreachable
from ftpsd.cli.options import CONFIGURATION

#: Seconds for a load of the whole configuration, which may have 100,000 users.
_PATIENCE = 120.0


class Result(Enum):
    """What has come of a reload."""

    LOADED = "loaded"
    #: The daemon has found faults, and uses its old configuration.
    REFUSED = "refused"
    #: The daemon does not run, or has no admin socket, or does not answer.
    UNREACHABLE = "unreachable"


@frozen
class Reload:
    """The result of a reload, and the faults that the daemon has found."""

    result: Result
    faults: tuple[str, ...] = ()


def reload(configuration: str) -> Reload:
    """Let the daemon of a configuration load it again, and wait for the result."""
    try:
        path = find_socket(configuration)
        if path == SERVICE_SOCKET and os.path.abspath(configuration) != CONFIGURATION:
            return Reload(Result.UNREACHABLE)  # that socket belongs to another daemon
        AdminClient(path).post("reload", {}, _PATIENCE)
    except Refused as refused:
        if refused.faults:
            return Reload(Result.REFUSED, refused.faults)
        return Reload(Result.UNREACHABLE)
    except Unreachable:
        return Reload(Result.UNREACHABLE)
    return Reload(Result.LOADED)
