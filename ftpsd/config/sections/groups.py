"""The keys of a group in `users.yaml`: those of a user, and what all members share."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import Factory, asdict, frozen

from ftpsd.config.sections.values import Quantity
from ftpsd.config.settings import QuotaSettings, UserSettings


@frozen
class SharedLimits:
    """Limits of sessions, transfers and rates (bytes per second) that apply to some sessions together."""

    sessions: int | None = None
    transfers: int | None = None
    upload_rate: Quantity | None = None
    download_rate: Quantity | None = None


@frozen
class SharedSettings:
    """Limits for all members of a group together. The quota is for what their homes hold."""

    quota: QuotaSettings = Factory(QuotaSettings)
    limits: SharedLimits = SharedLimits()

    def by_name(self) -> Mapping[str, float]:
        """Return the limits that are set: those of `limits` by their keys, `quota_bytes` and `quota_files`."""
        limits = {**asdict(self.limits), "quota_bytes": self.quota.bytes, "quota_files": self.quota.files}
        return {name: limit for name, limit in limits.items() if limit is not None}


@frozen
class GroupSettings(UserSettings):
    """The keys of a group. Those of a user hold for each member, `shared` for all members together."""

    shared: SharedSettings = SharedSettings()
