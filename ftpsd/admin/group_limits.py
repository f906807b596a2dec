"""The limits that the members of a group share, and what they use of them: read_groups."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from ftpsd.admin.parts import Parts
from ftpsd.config.sections.groups import SharedSettings


@frozen
class GroupLimit:
    """A limit of a group. What is used is None if it is not known: a rate, or homes that are not counted yet.

    The names are `sessions`, `transfers`, `upload_rate`, `download_rate`, `quota_bytes` and `quota_files`.
    """

    name: str
    used: float | None
    limit: float


@frozen
class GroupLimits:
    """A group, and the limits that it has."""

    name: str
    limits: tuple[GroupLimit, ...]


def read_groups(parts: Parts) -> Iterator[GroupLimits]:
    """Yield the groups of the configuration in effect that have limits for all members together."""
    for name, shared in parts.configuration().layers.shared.items():
        limits = tuple(_limits(parts, name, shared))
        if limits:
            yield GroupLimits(name, limits)


def _limits(parts: Parts, group: str, shared: SharedSettings) -> Iterator[GroupLimit]:
    counts, amount = parts.counts.users, parts.quotas.counted_in_group(group)
    used: dict[str, float | None] = {
        "sessions": counts.group_sessions.get(group, 0),
        "transfers": counts.group_transfers.get(group, 0),
        "quota_bytes": None if amount is None else max(0, amount.bytes),
        "quota_files": None if amount is None else max(0, amount.files),
    }
    for name, limit in shared.by_name().items():
        yield GroupLimit(name, used.get(name), limit)
