"""What the running daemon says of itself, for the checks on the server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from ftpsd.cli.admin_client import AdminClient, find_socket
from ftpsd.cli.failure import CommandFailed
from ftpsd.cli.live import answers

#: Seconds for the answer. The doctor works without it.
_PATIENCE = 5.0


@cache
def _status(configuration: str) -> answers.Status | None:
    try:
        return answers.status(AdminClient(find_socket(configuration), _PATIENCE))
    except CommandFailed:
        return None


def written(configuration: str) -> Sequence[str] | None:
    """Return the directories to which the daemon has limited itself; None if it has not, or does not answer."""
    status = _status(configuration)
    return None if status is None else status.get("sandbox")
