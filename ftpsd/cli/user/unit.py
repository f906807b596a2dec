"""What ftpsd.service needs for a home in a new place: the lines of docs/systemd.md."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ftpsd.config.load import DEFAULT

#: Below this directory the unit lets the daemon write.
_HOMES = "/var/lib/ftpsd"

#: Where systemd looks for drop-ins of the unit.
_DROP_INS = ("/etc/systemd/system/ftpsd.service.d", "/run/systemd/system/ftpsd.service.d")

#: Directories that the unit hides (ProtectHome=).
_HIDDEN = ("/home", "/root", "/run/user")


def needs(configuration: str, home: str) -> str | None:
    """Return what to do so that the service can use a home; None if it can already."""
    if os.path.abspath(configuration) != DEFAULT or _below(home, _HOMES) or _is_named(home):
        return None
    hidden = any(_below(home, each) for each in _HIDDEN)
    lines = ["ProtectHome=tmpfs", f"BindPaths={home}"] if hidden else [f"ReadWritePaths={os.path.dirname(home)}"]
    return "\n".join(
        [
            f"ftpsd.service cannot write to {home} yet. Run `systemctl edit ftpsd`, and write:",
            "",
            "    [Service]",
            *(f"    {line}" for line in lines),
            "",
            "Then run `systemctl restart ftpsd`: the sandbox is made when the daemon starts.",
            "See /usr/share/doc/ftpsd/systemd.md.",
        ]
    )


def _below(path: str, directory: str) -> bool:
    return f"{path}/".startswith(f"{directory.rstrip('/')}/")


def _is_named(home: str) -> bool:
    """Return whether a drop-in names the home or a directory above it."""
    return any(_below(home, each) for directory in _DROP_INS for each in _directories(Path(directory)))


def _directories(drop_ins: Path) -> Iterator[str]:
    """Yield the directories that the drop-ins let the daemon write to."""
    for file in sorted(drop_ins.glob("*.conf")):
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition("=")
            if key.strip() in ("ReadWritePaths", "BindPaths"):
                yield from (each.lstrip("-+").partition(":")[0] for each in value.split())
