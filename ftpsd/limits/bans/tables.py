"""The tables of bans and known addresses in the state file: all SQL statements.

Every function blocks. Times are POSIX times in seconds. `ftpsd bans lift` does not delete a row but sets its length to
0, so that the daemon learns about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from ftpsd.limits.bans.ban_list import CAPACITY, stored_address, stored_name
from ftpsd.limits.bans.ban_table import FOR_EVER, Kind
from ftpsd.limits.bans.known_addresses import KNOWN, MAX_TOTAL
from ftpsd.protocol.addresses import network, site
from ftpsd.system.state import State

BANS = """CREATE TABLE IF NOT EXISTS bans
    (kind TEXT, subject TEXT, until REAL, length REAL, PRIMARY KEY (kind, subject)) WITHOUT ROWID"""
KNOWN_ADDRESSES = """CREATE TABLE IF NOT EXISTS known_addresses
    (user TEXT, address TEXT, seen REAL, PRIMARY KEY (user, address)) WITHOUT ROWID"""

#: Rows that are valid, whoever has written them: 9e999 is infinite.
IS_KIND = f"kind IN ({', '.join(repr(kind) for kind in get_args(Kind))})"
IS_BAN = f"""{IS_KIND} AND typeof(subject) = 'text' AND typeof(until) = 'real'
    AND typeof(length) = 'real' AND length > 0 AND abs(until) + length < 9e999"""
IS_LIFTED = f"{IS_KIND} AND typeof(subject) = 'text' AND length <= 0"
IS_KNOWN = "typeof(user) = 'text' AND typeof(address) = 'text' AND typeof(seen) = 'real' AND abs(seen) < 9e999"

SAVE_BAN = "INSERT OR REPLACE INTO bans VALUES (?, ?, ?, ?)"
DELETE_BAN = "DELETE FROM bans WHERE kind = ? AND subject = ?"
SAVE_ADDRESS = "INSERT OR REPLACE INTO known_addresses VALUES (?, ?, ?)"
DELETE_ADDRESS = "DELETE FROM known_addresses WHERE user = ? AND address = ?"

#: A ban has no influence on the next one after this many quiet times of its own length: halved so often, any is gone.
FORGOTTEN = 10

#: Seconds for which a row stays after it has become useless. The clock that says so may be wrong.
GRACE = KNOWN

#: Kind, subject, end and length of a ban.
BanRow = tuple[Kind, str, float, float]
#: User, address and time of a login.
AddressRow = tuple[str, str, float]
Rows = tuple[list[BanRow], list[AddressRow]]


def load(state: State, now: float) -> Rows:
    """Return the bans and known addresses that are still of use; the address that was seen last stands last."""
    if state.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('bans', 'known_addresses')") != [(2,)]:
        return [], []
    bans: list[Any] = state.execute(
        f"SELECT kind, subject, until, length FROM bans WHERE {IS_BAN}"
        f" AND until + max(length * {FORGOTTEN}, {GRACE}) >= ? ORDER BY until DESC LIMIT {CAPACITY}",
        now,
    )
    seen: list[Any] = state.execute(
        f"SELECT user, address, seen FROM known_addresses WHERE {IS_KNOWN}"
        f" AND seen >= ? ORDER BY seen DESC LIMIT {MAX_TOTAL}",
        now - KNOWN - GRACE,
    )
    return bans, seen[::-1]


def replace_all(state: State, bans: Sequence[BanRow], known: Sequence[AddressRow]) -> list[tuple[Kind, str]]:
    """Store all rows in place of those in the file. Bans that another process has lifted are left out, and returned."""
    state.define(BANS, KNOWN_ADDRESSES)
    with state.transaction() as execute:
        lifted: list[Any] = execute(f"SELECT kind, subject FROM bans WHERE {IS_LIFTED}")
        execute("DELETE FROM bans")
        execute("DELETE FROM known_addresses")
        gone = set(lifted)
        for ban in bans:
            if ban[:2] not in gone:
                execute("INSERT INTO bans VALUES (?, ?, ?, ?)", *ban)
        for each in known:
            execute("INSERT INTO known_addresses VALUES (?, ?, ?)", *each)
    return lifted


def take_lifted(state: State) -> list[tuple[Kind, str]]:
    """Delete the rows of bans that another process has lifted, and return them."""
    with state.transaction() as execute:
        lifted: list[Any] = execute(f"SELECT kind, subject FROM bans WHERE {IS_LIFTED}")
        execute(f"DELETE FROM bans WHERE {IS_LIFTED}")
    return lifted


# --- for `ftpsd bans` ----------------------------------------------------------------------------------


def current(state: State, now: float) -> list[tuple[str, str, float | None]]:
    """Return kind, subject and end (None: never) of all active bans; the one that ends last stands last."""
    state.define(BANS)
    found: list[Any] = state.execute(
        f"SELECT kind, subject, iif(length < {FOR_EVER}, until, NULL) FROM bans WHERE {IS_BAN} AND until > ?"
        " ORDER BY until",
        now,
    )
    return found


def lift(state: State, subject: str | None) -> int:
    """Lift the bans of an address or a user name, or all with None. Return how many there were.

    The ban of a site from a name is lifted by the name, by an address of the site, and by the site.
    """
    state.define(BANS)
    given = stored_name(subject or "")
    with state.transaction() as execute:
        execute(
            f"UPDATE bans SET length = 0, until = 0 WHERE {IS_BAN} AND (? OR subject IN (?, ?) OR kind = 'site' AND"
            " (substr(subject, instr(subject, ' ') + 1) = ? OR substr(subject, 1, instr(subject, ' ') - 1) IN (?, ?)))",
            subject is None,
            given,
            stored_address(given, network),
            given,
            given,
            stored_address(given, site),
        )
        ((lifted,),) = execute("SELECT changes()")
    return int(lifted)
