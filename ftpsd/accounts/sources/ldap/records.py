"""Make the record of a user from the attributes of an entry."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from types import NoneType, UnionType
from typing import get_args, get_origin

import attrs

from ftpsd.accounts.sources.ldap.connection import Entry
from ftpsd.accounts.sources.source import Record
from ftpsd.config.sections.values import Value
from ftpsd.config.settings import UserSettings

#: Attributes that say of an account that it is locked.
_LOCKS = frozenset({"nsaccountlock", "logindisabled"})

#: The bit ACCOUNTDISABLE of userAccountControl.
_ACCOUNT_DISABLED = 2

#: Values of accountExpires that mean never.
_NEVER = (0, 2**63 - 1)


def kind_of(key: str) -> object:
    """Return the type of a user's key, such as `quota.bytes`. Raises KeyError if an attribute cannot give its value."""
    kind: object = UserSettings
    for name in key.split("."):
        if not (isinstance(kind, type) and attrs.has(kind)):
            raise KeyError(key)
        kind = {field.name: field.type for field in attrs.fields(attrs.resolve_types(kind))}[name]
        if isinstance(kind, UnionType):
            kind = next(each for each in get_args(kind) if each is not NoneType)
    if get_origin(kind) is dict or (isinstance(kind, type) and attrs.has(kind)):
        raise KeyError(key)
    return kind


def make_record(entry: Entry, attributes: Mapping[str, str], values: Record) -> dict[str, Value]:
    """Return `values` with those of the attributes, by key. An attribute that is missing leaves the value as it is.

    A value that cannot be converted stays text: it is a fault of the record, which names the key.
    """
    record = {name: deepcopy(value) for name, value in values.items()}
    for key, attribute in attributes.items():
        texts = entry.texts(attribute)
        if texts:
            _put(record, key.split("."), _value(kind_of(key), attribute.lower(), texts))
    return record


def _put(record: dict[str, Value], path: Sequence[str], value: Value) -> None:
    for name in path[:-1]:
        below = record.get(name)
        if not isinstance(below, dict):
            below = record[name] = {}
        record = below
    record[path[-1]] = value


def _value(kind: object, attribute: str, texts: list[str]) -> Value:
    if kind is bool:
        return _boolean(attribute, texts[0])
    if kind is datetime:
        return _moment(attribute, texts[0])
    if kind is int:
        return int(texts[0]) if re.fullmatch("-?[0-9]{1,18}", texts[0]) else texts[0]
    if get_origin(kind) is frozenset:  # one profile, or permissions
        words = [word for text in texts for word in re.split("[, ]+", text) if word]
        return words[0] if len(words) == 1 and "-" in words[0] else list[Value](words)
    if get_origin(kind) is tuple:
        return list[Value](texts)
    return texts[0]


def _boolean(attribute: str, text: str) -> Value:
    if attribute == "useraccountcontrol" and re.fullmatch("[0-9]{1,18}", text):
        return not int(text) & _ACCOUNT_DISABLED
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower())
    if known is None:
        return text
    return not known if attribute in _LOCKS else known


def _moment(attribute: str, text: str) -> Value:
    """Return a date in the form of the configuration; None for never."""
    try:
        found = _MOMENTS.get(attribute, _generalized_time)(text)
    except OverflowError:
        return None  # after the year 9999
    except ValueError:
        return text
    return None if found is None else found.isoformat(" ")


def _shadow_expire(text: str) -> datetime | None:
    """Days since 1970 (shadow(5)). The account expires when that day begins."""
    days = int(text)
    return None if days < 0 else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=days)


def _account_expires(text: str) -> datetime | None:
    """Return the time in accountExpires of Active Directory: intervals of 100 nanoseconds since 1601."""
    count = int(text)
    return None if count in _NEVER else datetime(1601, 1, 1, tzinfo=UTC) + timedelta(microseconds=count // 10)


def _generalized_time(text: str) -> datetime | None:
    """Return a generalized time (RFC 4517 section 3.3.13) in UTC. Raises ValueError for any other text."""
    match = re.fullmatch(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)?(\d\d)?(?:[.,]\d+)?Z", text)
    if match is None:
        raise ValueError(text)
    year, month, day, hour, minute, second = (int(each or 0) for each in match.groups())
    return datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)


_MOMENTS: Mapping[str, Callable[[str], datetime | None]] = {
    "shadowexpire": _shadow_expire,
    "accountexpires": _account_expires,
}
