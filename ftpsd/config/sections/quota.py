"""The section `quota` of users, groups and folders."""

from __future__ import annotations

from attrs import frozen

from ftpsd.config.sections.values import Quantity


@frozen
class QuotaSettings:
    """The maximum size of a home or folder, in bytes and in files. None means no limit."""

    bytes: Quantity | None = None
    files: int | None = None
