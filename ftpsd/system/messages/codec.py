"""JSON forms of records that go from one process to another: Codec.

The form is made from the fields and types of a class. A worker process may have been taken over by an attacker, so
`decode` checks every value, and raises Malformed for all that `encode` cannot have made.
"""

from __future__ import annotations

import ipaddress
import math
import types
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import attrs

T = TypeVar("T")

#: The longest text, and the most items of a list.
LONGEST_TEXT = 100_000
MOST_ITEMS = 100_000

#: All numbers of the daemon are smaller.
_LARGEST = 2**63

Convert = Callable[[object], object]


class Malformed(ValueError):
    """A value that no process of this daemon has encoded."""


class Codec(Generic[T]):
    """The form of one class: an attrs class, a dataclass or a NamedTuple.

    Its fields may be numbers, texts, flags, literals, addresses, paths, tuples, mappings, further records, and unions
    of one of these with None. A record is a list of its fields in their order.
    """

    def __init__(self, kind: type[T], decoders: Mapping[type, Convert] | None = None) -> None:
        """`decoders` has functions for fields of some types, in place of those that this module makes."""
        names = _field_names(kind)
        hints = get_type_hints(kind)
        forms = [_form(hints[name]) for name in names]
        self._kind = kind
        self._values = _getter(names)
        self._encoders = [(index, form.encode) for index, form in enumerate(forms) if form.encode is not None]
        own = decoders or {}
        self._decoders = [own.get(hints[name], form.decode) for name, form in zip(names, forms, strict=True)]

    def encode(self, value: T) -> list[object]:
        """Return a record in JSON."""
        values = [*self._values(value)]
        for index, encode in self._encoders:
            values[index] = encode(values[index])
        return values

    def decode(self, value: object) -> T:
        """Return the record that `encode` was given. Raises Malformed."""
        decoders = self._decoders
        if type(value) is not list or len(value) != len(decoders):
            raise Malformed(f"this is no {self._kind.__name__}")
        return self._kind(*[decode(each) for decode, each in zip(decoders, value, strict=True)])


def _field_names(kind: type) -> list[str]:
    if attrs.has(kind):
        return [each.name for each in attrs.fields(kind) if each.init]
    if is_dataclass(kind):
        return [each.name for each in dataclass_fields(kind)]
    return list(cast(type[NamedTuple], kind)._fields)


def _getter(names: list[str]) -> Callable[[object], Iterable[object]]:
    if len(names) > 1:
        return cast(Callable[[object], tuple[object, ...]], attrgetter(*names))
    return lambda value: [getattr(value, name) for name in names]


class _Form(NamedTuple):
    """How values of one type are encoded (None: JSON has them) and decoded."""

    encode: Convert | None
    decode: Convert


# --- simple values ---------------------------------------------------------------------------------


def _integer(value: object) -> object:
    if type(value) is not int or not -_LARGEST <= value < _LARGEST:
        raise Malformed("this is no whole number")
    return value


def _number(value: object) -> object:
    if (type(value) is not float and type(value) is not int) or not math.isfinite(value) or abs(value) >= _LARGEST:
        raise Malformed("this is no number")
    return float(value)


def _flag(value: object) -> object:
    if type(value) is not bool:
        raise Malformed("this is neither true nor false")
    return value


def _text(value: object) -> object:
    if type(value) is not str or len(value) > LONGEST_TEXT:
        raise Malformed("this is no text, or too long")
    return value


def _address(value: object) -> object:
    try:
        return ipaddress.ip_address(cast(str, _text(value)))
    except ValueError:
        raise Malformed("this is no address") from None


def _path(value: object) -> object:
    return Path(cast(str, _text(value)))


_SIMPLE: dict[object, _Form] = {
    int: _Form(None, _integer),
    float: _Form(None, _number),
    bool: _Form(None, _flag),
    str: _Form(None, _text),
    Path: _Form(str, _path),
    ipaddress.IPv4Address | ipaddress.IPv6Address: _Form(str, _address),
}


# --- composed values -------------------------------------------------------------------------------


def _form(hint: object) -> _Form:
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _literal(arguments)
    if origin in (Union, types.UnionType):
        return _optional([each for each in arguments if each is not type(None)])
    if origin is tuple:
        return _sequence(arguments[0]) if arguments[1:] == (...,) else _tuple(arguments)
    if origin in (dict, Counter, Mapping):
        return _mapping(origin, (arguments[0], int) if origin is Counter else arguments)
    assert isinstance(hint, type), hint
    nested: Codec[object] = Codec(hint)
    return _Form(nested.encode, nested.decode)


def _literal(values: tuple[object, ...]) -> _Form:
    known = {(type(each), each) for each in values}

    def decode(value: object) -> object:
        if not isinstance(value, str | int | None) or (type(value), value) not in known:
            raise Malformed("this value is not known")
        return value

    return _Form(None, decode)


def _optional(hints: list[object]) -> _Form:
    assert len(hints) == 1 or set(hints) == {ipaddress.IPv4Address, ipaddress.IPv6Address}, hints
    inner = _form(hints[0] if len(hints) == 1 else ipaddress.IPv4Address | ipaddress.IPv6Address)
    own = inner.encode
    return _Form(
        None if own is None else lambda value: None if value is None else own(value),
        lambda value: None if value is None else inner.decode(value),
    )


def _items(value: object, length: int | None = None) -> list[object]:
    if type(value) is not list or len(value) > MOST_ITEMS or (length is not None and len(value) != length):
        raise Malformed("this is no list, or has another length")
    return value


def _sequence(hint: object) -> _Form:
    encode, decode = _form(hint)
    own = encode or _itself
    return _Form(
        lambda value: [own(each) for each in cast(tuple[object, ...], value)],
        lambda value: tuple([decode(each) for each in _items(value)]),
    )


def _tuple(hints: tuple[object, ...]) -> _Form:
    forms = [_form(hint) for hint in hints]

    def encode(value: object) -> object:
        pairs = zip(forms, cast(tuple[object, ...], value), strict=True)
        return [(form.encode or _itself)(each) for form, each in pairs]

    def decode(value: object) -> object:
        return tuple([form.decode(each) for form, each in zip(forms, _items(value, len(forms)), strict=True)])

    return _Form(encode, decode)


def _mapping(kind: object, hints: tuple[object, ...]) -> _Form:
    pair = _tuple(hints)
    make = Counter if kind is Counter else dict
    encode = cast(Convert, pair.encode)

    def decode(value: object) -> object:
        return make(dict(cast(list[tuple[object, object]], [pair.decode(each) for each in _items(value)])))

    return _Form(lambda value: [encode(each) for each in cast(Mapping[object, object], value).items()], decode)


def _itself(value: object) -> object:
    return value
