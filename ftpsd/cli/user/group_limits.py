"""What the members of groups share, for `ftpsd user list` and `show`: shared_limits. The running daemon is asked.

Only the daemon knows the sessions and transfers, and counts the homes of all members. Without it, the limits are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ftpsd.cli.admin_client import AdminClient, find_socket
from ftpsd.cli.failure import CommandFailed, Unreachable
from ftpsd.cli.live import answers
from ftpsd.config.sections.groups import SharedSettings

#: Seconds for the daemon's answer. `ftpsd user` works without it.
PATIENCE = 5.0


def shared_limits(
    configuration: str, names: Iterable[str], shared: Mapping[str, SharedSettings]
) -> list[answers.Group]:
    """Return the limits of some groups as their files have them, and what is used of each as far as it is known."""
    wanted = [name for name in dict.fromkeys(names) if name in shared]
    used = _used(configuration) if wanted else {}
    found: list[answers.Group] = []
    for name in wanted:
        limits: list[answers.GroupUsage] = [
            {"name": key, "used": used.get((name, key)), "limit": limit}
            for key, limit in shared[name].by_name().items()
        ]
        found.append({"name": name, "limits": limits})
    return found


def _used(configuration: str) -> Mapping[tuple[str, str], float | None]:
    """Return what the daemon knows, by the names of the group and the limit; nothing if it does not answer."""
    try:
        status = answers.status(AdminClient(find_socket(configuration), PATIENCE))
    except (CommandFailed, Unreachable):
        return {}
    groups = status.get("groups", [])  # a daemon of an older release has none
    return {(group["name"], limit["name"]): limit["used"] for group in groups for limit in group["limits"]}
