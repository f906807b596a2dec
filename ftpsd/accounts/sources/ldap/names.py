"""Names of users and groups in filters and distinguished names. A name can never change the meaning of either."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import ldap
from ldap.dn import escape_dn_chars, is_dn, str2dn
from ldap.filter import escape_filter_chars

#: The normal form of a distinguished name: attributes and values of each part.
NormalDn = tuple[tuple[tuple[str, str], ...], ...]


def filter_for(template: str, values: Mapping[str, str]) -> str:
    """Return a filter with values in place of {name} and the like."""
    return _fill(template, values, escape_filter_chars)


def escape_bytes(value: bytes) -> str:
    """Return a value of any bytes as it stands in a filter."""
    return "".join(f"\\{byte:02x}" for byte in value)


def dn_for(template: str, name: str) -> str:
    """Return a distinguished name with a name in place of {name}."""
    return _fill(template, {"name": name}, escape_dn_chars)


def dn_template(bind: str | None) -> str | None:
    """Return `bind` if it is a distinguished name with {name}; None if it is a login name, as {name}@example.com."""
    return bind if bind is not None and is_dn(dn_for(bind, "x")) else None


def login_name_for(template: str, name: str) -> str:
    """Return a login name with a name in place of {name}. Login names have no escapes."""
    return _fill(template, {"name": name}, str)


def _fill(template: str, values: Mapping[str, str], escape: Callable[[str], str]) -> str:
    # In one pass: a value may contain {dn}.
    return re.sub(r"\{(\w+)\}", lambda match: escape(values[match[1]]) if match[1] in values else match[0], template)


def name_attribute(filter_or_dn: str) -> str | None:
    """Return the attribute that a filter or a distinguished name compares with {name} first; None if it does not."""
    match = re.search(r"(?:^|[(,])\s*([A-Za-z][A-Za-z0-9-]*)\s*=\s*\{name\}\s*(?:[),+]|$)", filter_or_dn)
    return match[1] if match else None


def normal(dn: str) -> NormalDn | None:
    """Return a distinguished name in normal form, in which case and spaces do not count; None if it is none."""
    try:
        parts = str2dn(dn)
    except ldap.DECODING_ERROR:
        return None
    if not parts:
        return None
    return tuple(tuple(sorted((name.lower(), folded(value)) for name, value, _ in part)) for part in parts)


def folded(text: str) -> str:
    """Return what names have in common that a directory does not distinguish (RFC 4518): case, and rows of spaces."""
    return " ".join(text.split()).casefold()


def first_values(dn: str) -> set[str]:
    """Return the values of the first part of a distinguished name, folded: usually one, the name of the entry."""
    parts = normal(dn)
    return {value for _, value in parts[0]} if parts else set()
