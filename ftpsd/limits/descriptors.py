"""File descriptors of the process: raise the limit, and keep a reserve for the sessions that exist."""

from __future__ import annotations

import os
import resource

#: The limit that the daemon sets, if the hard limit of the system is as high.
WANTED_LIMIT = 65536


def raise_descriptor_limit() -> None:
    """Raise the soft limit. The usual 1024 is for programs that call select(), and too low for 2,000 sessions."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_LIMIT if hard == resource.RLIM_INFINITY else min(hard, WANTED_LIMIT)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def descriptors_are_short() -> bool:
    """Return whether only the last eighth of the descriptors is free. Running sessions need it for files and data."""
    used, limit = descriptors_in_use()
    return limit is not None and used >= limit - limit // 8


def descriptors_in_use() -> tuple[int, int | None]:
    """Return how many descriptors are in use, and how many may be: None without a limit.

    The first number is the lowest descriptor that is free: to count them all takes milliseconds with 10,000 open.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = None if soft == resource.RLIM_INFINITY else soft
    try:
        lowest = os.open("/", os.O_PATH | os.O_CLOEXEC)  # the kernel gives the lowest number that is free
    except OSError:
        return limit or 1, limit or 1
    os.close(lowest)
    return lowest, limit
