"""Lines about limits: how much is used, and how much is left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ftpsd.cli.live import answers
from ftpsd.protocol.replies import readable_size

#: Limits of groups that `ftpsd status` shows: those of which most is used.
MOST = 10


def use(used: float, limit: float | None) -> str:
    """Return how much of a limit is used, and how much is left."""
    return f"{used:.0f}, no limit" if limit is None else f"{used:.0f} of {limit:.0f}, {max(0, limit - used):.0f} left"


def limit_line(limit: answers.Usage) -> str:
    """Return a limit of the server: its name, how much is used and left, and the used share."""
    name, used, most = limit["name"], limit["used"], limit["limit"] or 0
    if name.endswith("_rate"):
        return f"{name}: {rate(used)} of {rate(most)} ({_share(used, most)})"
    return f"{name}: {use(used, most)} ({_share(used, most)})"


def group_limit(limit: answers.GroupUsage) -> str:
    """Return a limit that the members of a group share."""
    name, used, most = limit["name"], limit["used"], limit["limit"]
    if name.endswith("_rate"):
        return f"{name}: {rate(most)}"
    if name == "quota_bytes":
        if used is None:
            return f"{name}: {readable_size(round(most))}"
        left = readable_size(round(max(0, most - used)))
        return (
            f"{name}: {readable_size(round(used))} of {readable_size(round(most))}, {left} left ({_share(used, most)})"
        )
    if used is None:
        return f"{name}: {most:.0f}"
    return f"{name}: {use(used, most)} ({_share(used, most)})"


def group_lines(groups: Iterable[answers.Group]) -> Iterator[str]:
    """Yield the limits of groups, the one of which most is used first; of many, not all."""
    limits = [(group["name"], limit) for group in groups for limit in group["limits"]]
    limits.sort(key=lambda each: -((each[1]["used"] or 0) / (each[1]["limit"] or 1)))
    yield from (f"{name} {group_limit(limit)}" for name, limit in limits[:MOST])
    if len(limits) > MOST:
        yield f"{len(limits) - MOST} more: ftpsd status --json"


def rate(rate: float) -> str:
    """Return bytes per second."""
    return f"{readable_size(round(rate))}/s"


def _share(used: float, most: float) -> str:
    return f"{used / most:.0%}" if most else "full"
