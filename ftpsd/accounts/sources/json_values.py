"""Read a JSON object whose author may be mistaken or hostile: parse_object."""

from __future__ import annotations

import json
from typing import NoReturn

from ftpsd.config.sections.values import Value


class InvalidJson(ValueError):
    """The text is no JSON object that can be used. The message never repeats the text."""


def parse_object(data: bytes) -> dict[str, Value]:
    """Return the object that a JSON text has. Raises InvalidJson, also for a key that an object has twice and for NaN.

    Its values may be of any size: `RecordBuilder` checks those of a user.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_mapping)
    except InvalidJson:
        raise
    except (ValueError, RecursionError):
        raise InvalidJson("is not JSON") from None
    if not isinstance(value, dict):
        raise InvalidJson("is not a JSON object")
    return value


def _refuse_constant(_: str) -> NoReturn:
    raise InvalidJson("has a number that is not finite")


def _mapping(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise InvalidJson("has a key twice")
    return result
