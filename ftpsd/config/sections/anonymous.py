"""The section `anonymous` of `ftpsd.yaml`: what clients without an account may do."""

from __future__ import annotations

from typing import Literal

from attrs import Factory, frozen

from ftpsd.config.sections.quota import QuotaSettings
from ftpsd.config.sections.storage import StorePlace
from ftpsd.config.sections.values import Quantity


@frozen
class AnonymousLimits:
    """Limits for all anonymous sessions together, and for those from one address (IPv6: one /64). None is no limit."""

    sessions: int | None = 100
    sessions_per_address: int | None = 5
    transfers: int | None = None
    transfers_per_address: int | None = None
    upload_rate: Quantity | None = None
    upload_rate_per_address: Quantity | None = None
    download_rate: Quantity | None = None
    download_rate_per_address: Quantity | None = None


@frozen
class AnonymousSettings:
    """Anonymous logins. `drop-box`: clients can upload new files, and see none."""

    #: A directory, or a place in a store.
    home: str | StorePlace
    permissions: Literal["read-only", "drop-box"] = "read-only"
    quota: QuotaSettings = Factory(QuotaSettings)
    limits: AnonymousLimits = AnonymousLimits()
