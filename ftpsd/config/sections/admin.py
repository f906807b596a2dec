"""The section `admin`: who may administrate the running daemon."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen


@frozen
class PageSettings:
    """The listener of the page for administrators, and further names of the server that browsers may use."""

    address: str = "127.0.0.1"
    port: int = 8121
    hosts: tuple[str, ...] = ()


@frozen
class AdminSettings:
    """The socket of the admin API, and the group whose members may use it. Changes take effect at the next start.

    Without `socket` it is `admin.sock` in $RUNTIME_DIRECTORY of systemd; without that, there is none.
    """

    socket: Path | None = None
    group: str | None = None
    page: PageSettings | None = None
