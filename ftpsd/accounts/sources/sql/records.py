"""Turn a row of a result into the keys of a user."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from decimal import Decimal

from ftpsd.accounts.sources.source import SourceFailed
from ftpsd.config.sections.values import Value

#: A row of a result: the values by column, as the library of the database returns them.
Row = Mapping[str, object]

#: Columns with a text that is never JSON.
_TEXTS = ("name", "password", "home")

#: Columns with a boolean, for which databases without booleans, and many tables, have 0 and 1.
_BOOLEANS = ("enabled",)

#: The most characters of all texts in a row: as many as a file of `users.d` may have.
_LONGEST = 1 << 20

#: The deepest nesting of JSON.
_DEEPEST = 100


def record(row: Row) -> dict[str, Value]:
    """Return the keys of a user. A column that is NULL is no key.

    A column `limits.sessions` or `limits__sessions` is the key `sessions` in the section `limits`. Raises SourceFailed
    for values that no key can have.
    """
    if sum(len(value) for value in row.values() if isinstance(value, str | bytes)) > _LONGEST:
        raise SourceFailed("the row of a user is larger than 1 MiB")
    result: dict[str, Value] = {}
    for column, value in sorted(row.items(), key=lambda item: len(_parts(item[0]))):  # sections before keys in them
        if value is not None:
            _put(result, column, _value(column, value))
    return result


def _parts(column: str) -> list[str]:
    return column.replace("__", ".").split(".")


def _put(values: dict[str, Value], column: str, value: Value) -> None:
    *sections, key = _parts(column)
    for section in sections:
        inside = values.setdefault(section, {})
        if not isinstance(inside, dict):
            raise SourceFailed(f"the column {column} is a key of {section}, which another column sets to a plain value")
        values = inside
    values[key] = value


def _value(column: str, value: object) -> Value:
    try:
        if column in _BOOLEANS and value in (0, 1):
            return bool(value)
        found = _plain(value)
        if isinstance(found, str) and found[:1] in ("[", "{") and column not in _TEXTS:
            return _plain(json.loads(found))
    except (ValueError, ArithmeticError, RecursionError) as error:  # ArithmeticError: an infinite number
        raise SourceFailed(f"the column {column} cannot be used: {error}") from None
    return found


def _plain(value: object, depth: int = 0) -> Value:
    """Return a value of the kinds that YAML has. Raises ValueError if it is nested too deeply, or no text."""
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {_text(key): _plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, depth + 1) for each in value]
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return int(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return _text(value.decode() if isinstance(value, bytes) else value)


def _text(value: object) -> str:
    text = str(value)  # addresses, networks and UUIDs become their usual text
    if "\0" in text or (not text.isascii() and any("\ud800" <= each <= "\udfff" for each in text)):
        raise ValueError("a text contains a NUL or half of a surrogate pair")
    return text
