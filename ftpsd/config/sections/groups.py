"""What the members of a group share: the section `shared` of a group in `users.yaml`."""

from __future__ import annotations

from attrs import Factory, frozen

from ftpsd.config.sections.values import Quantity
from ftpsd.config.settings import QuotaSettings


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
