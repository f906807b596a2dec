"""Attributes with many values, which Active Directory returns in portions: `complete` reads all of them.

A portion is an attribute named `memberOf;range=0-1499`; the last one ends in `*` ([MS-ADTS] section 3.1.1.3.1.3.3).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ftpsd.accounts.sources.deadline import Deadline
from ftpsd.accounts.sources.ldap.connection import Connection, Entry
from ftpsd.accounts.sources.source import SourceFailed

_PORTION = re.compile("([^;]+);range=([0-9]{1,9})-(?:[0-9]{1,9}|([*]))")

#: The most values of an attribute.
MOST = 20_000


def complete(entry: Entry, connection: Connection, deadline: Deadline) -> Entry:
    """Return an entry with all values of its attributes. Raises what `Connection.search` raises, and SourceFailed."""
    portions = {attribute: found for attribute in entry.attributes if (found := _PORTION.fullmatch(attribute))}
    if not portions:
        return entry
    attributes = {name: values for name, values in entry.attributes.items() if name not in portions}
    for found in portions.values():
        attributes[found[1]] = _all_values(entry, found[1], connection, deadline)
    return Entry(entry.dn, attributes)


def _all_values(entry: Entry, name: str, connection: Connection, deadline: Deadline) -> Sequence[bytes]:
    values: list[bytes] = []
    answer = [entry]
    while True:
        more, is_last = _portion(answer, name, len(values))
        values += more
        if len(values) > MOST:
            raise SourceFailed(f"{name} of the entry {entry.dn} has more than {MOST} values")
        if is_last:
            return values
        wanted = f"{name};range={len(values)}-*"
        answer = connection.search(entry.dn, "base", "(objectClass=*)", [wanted], deadline)


def _portion(answer: Sequence[Entry], name: str, first: int) -> tuple[Sequence[bytes], bool]:
    """Return the values of an attribute from the number `first`, and whether they are the last ones."""
    for entry in answer:
        for attribute, values in entry.attributes.items():
            found = _PORTION.fullmatch(attribute)
            if found is not None and found[1] == name and int(found[2]) == first and (values or found[3]):
                return values, found[3] is not None
    raise SourceFailed(f"the server returns {name} of {answer[0].dn if answer else 'an entry'} only in part")
