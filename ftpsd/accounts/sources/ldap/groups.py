"""The groups of the directory in which a user is, and the groups of ours that they stand for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from ftpsd.accounts.sources.ldap.connection import Entry
from ftpsd.accounts.sources.ldap.names import escape_bytes, filter_for, first_values, folded, normal
from ftpsd.accounts.sources.source import SourceFailed
from ftpsd.config.sections.sources import Membership

#: Returns the entries below the base of the groups that match a filter.
Search = Callable[[str], Sequence[Entry]]

#: Groups within groups: the most levels, and the most groups of a user.
_DEEPEST, _MOST_GROUPS = 20, 2000

#: How many groups one search asks for that contain them.
_AT_ONCE = 50

#: The groups of OpenLDAP and others; those of RFC 2307 have names of users.
_USUAL = "(|(member={dn})(uniqueMember={dn})(memberUid={name}))"

#: LDAP_MATCHING_RULE_IN_CHAIN: Active Directory follows the groups within groups.
_IN_CHAIN = "(member:1.2.840.113556.1.4.1941:={dn})"

_CONTAINS = "(member={dn})(uniqueMember={dn})"

#: Of Active Directory: the identifier of an account, and the last part of that of the primary group, which no list of
#: members shows.
_SID, _PRIMARY = "objectSid", "primaryGroupID"


def attributes_for(settings: Membership) -> list[str]:
    """Return the attributes of a user that `groups_of` needs."""
    own = [settings.attribute] if settings.attribute is not None else []
    return [*own, _SID, _PRIMARY] if settings.nested == "active-directory" else own


def groups_of(entry: Entry, name: str, settings: Membership, search: Search) -> list[str]:
    """Return the distinguished names of all groups in which a user is. Raises SourceFailed if they are too many."""
    found = list(entry.texts(settings.attribute)) if settings.attribute else []
    if settings.base is not None:
        if settings.nested == "active-directory":
            return found + _in_chain(entry, search)
        found += _names(search(filter_for(settings.filter or _USUAL, {"dn": entry.dn, "name": name})))
        if settings.nested == "search":
            return _with_outer(found, search)
    return found


def limited(pages: Iterable[Sequence[Entry]]) -> list[Entry]:
    """Return all groups of a search that are not too many for one user. Raises SourceFailed if they are."""
    found: list[Entry] = []
    for page in pages:
        found += page
        if len(found) > _MOST_GROUPS:
            raise SourceFailed(f"the user is in more than {_MOST_GROUPS} groups")
    return found


def _in_chain(entry: Entry, search: Search) -> list[str]:
    """Return the primary group of a user, and all groups that contain the user or that group at any depth."""
    text = _primary_filter(entry)
    primary = _names(search(text)) if text is not None else []
    terms = (filter_for(_IN_CHAIN, {"dn": dn}) for dn in [entry.dn, *primary])
    return primary + _names(search(f"(|{''.join(terms)})"))


def _primary_filter(entry: Entry) -> str | None:
    """Return the filter that finds the primary group: its identifier differs from the user's in the last four bytes."""
    own, last = entry.attributes.get(_SID.lower()), entry.texts(_PRIMARY)
    if not own or len(own[0]) < 12 or not last or not re.fullmatch("[0-9]{1,10}", last[0]) or int(last[0]) >= 2**32:
        return None
    group = own[0][:-4] + int(last[0]).to_bytes(4, "little")
    return f"({_SID}={escape_bytes(group)})"


def _with_outer(groups: Iterable[str], search: Search) -> list[str]:
    """Return groups, and all that contain any of them. Groups may contain each other."""
    known = {normal(dn): dn for dn in groups}
    new = list(known.values())
    for _ in range(_DEEPEST):
        outer: list[str] = []
        for start in range(0, len(new), _AT_ONCE):
            terms = (filter_for(_CONTAINS, {"dn": dn}) for dn in new[start : start + _AT_ONCE])
            outer += _names(search(f"(|{''.join(terms)})"))
        new = list({key: dn for dn in outer if (key := normal(dn)) not in known}.values())
        known |= {normal(dn): dn for dn in new}
        if not new:
            return list(known.values())
        if len(known) > _MOST_GROUPS:
            raise SourceFailed(f"the user is in more than {_MOST_GROUPS} groups")
    raise SourceFailed(f"groups lie in each other more than {_DEEPEST} levels deep")


def _names(entries: Iterable[Entry]) -> list[str]:
    return [entry.dn for entry in entries]


class GroupNames:
    """Groups of the directory, as the configuration names them: by distinguished name, or by its first value."""

    def __init__(self, groups: Iterable[str]) -> None:
        listed = list(groups)
        self._dns = {normal(dn) for dn in listed} - {None}
        self._names = {name for dn in listed for name in first_values(dn)}

    def __contains__(self, name: str) -> bool:
        return normal(name) in self._dns if "=" in name else folded(name) in self._names

    def ours(self, mapping: Mapping[str, str]) -> list[str]:
        """Return the groups of the configuration for which these groups of the directory stand, in its order."""
        return list(dict.fromkeys(ours for name, ours in mapping.items() if name in self))
