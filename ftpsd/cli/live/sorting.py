"""The orders in which `ftpsd who` and `ftpsd top` show sessions."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable

from ftpsd.cli.live.answers import Session
from ftpsd.cli.live.session_table import fraction


def _address(session: Session) -> tuple[int, int]:
    try:
        address = ipaddress.ip_address(session["address"].partition("%")[0])
    except ValueError:
        return 0, 0
    return address.version, int(address)


#: The largest rate, progress or idle time comes first; all others start with the smallest.
_KEYS: dict[str, Callable[[Session], object]] = {
    "number": lambda session: 0,
    "user": lambda session: (session["user"] is None, session["user"] or ""),
    "address": _address,
    "since": lambda session: session["since"],
    "idle": lambda session: -(session["idle"] or 0),
    "rate": lambda session: -((session["rate"] or 0) if session["direction"] else 0),
    "bytes": lambda session: -((session["bytes"] or 0) if session["direction"] else 0),
    "done": lambda session: -(fraction(session) or 0),
}

ORDERS = tuple(_KEYS)

#: The same orders as the API names them, which puts sessions without a value last, too.
API_ORDERS = {each: f"-{each}" if each in ("idle", "rate", "bytes", "done") else each for each in ORDERS}


def in_order(sessions: Iterable[Session], order: str) -> list[Session]:
    """Return sessions in one of ORDERS; those that are equal by their numbers."""
    by_number = sorted(sessions, key=lambda session: session["number"])
    return sorted(by_number, key=_KEYS[order])  # type: ignore[arg-type]
