"""Run the daemon in this process."""

from __future__ import annotations

import sys
from pathlib import Path


def serve(configuration: Path) -> int:
    """Run the daemon in the foreground until it is stopped. Its log goes to standard output."""
    from twisted.scripts.twistd import run as twistd

    sys.argv = ["twistd", "-n", "--pidfile=", "ftpsd", "-c", str(configuration)]
    twistd()
    return 0
