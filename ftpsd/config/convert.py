"""Plain YAML values to settings, by cattrs and without any coercion; what does not fit becomes a fault."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn

from ftpsd.config.settings import ForeignData, Pattern, PortRange, Quantity, Umask
from ftpsd.config.yaml import Document, Key, did_you_mean
from ftpsd.protocol.login_rules import DAYS, Hours, Network
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import PERMISSIONS, PROFILES

T = TypeVar("T")


class Wrong(ValueError):
    """A value that cannot be used: the problem, and the remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


# --- one value -------------------------------------------------------------------------------------


def told(value: Any) -> str:
    return "nothing" if value is None else f"“{value}”" if isinstance(value, str) else repr(value)


def _text(value: Any, _: Any = None) -> str:
    if not isinstance(value, str):
        raise Wrong(f"{told(value)} is not a text", "Put it in quotes.")
    return value


def _flag(value: Any, _: Any = None) -> bool:
    if not isinstance(value, bool):
        raise Wrong(f"{told(value)} is neither true nor false", "Write true or false.")
    return value


def _number(value: Any, _: Any = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Wrong(f"{told(value)} is not a whole number", "Write a whole number, without quotes.")
    if value < 0:
        raise Wrong(f"{value} is less than zero", "Write a number from 0.")
    return value


def _quantity(value: Any, _: Any = None) -> Quantity:
    match = re.fullmatch(r"([0-9]{1,18})([KMGT]?)", str(value))
    if match is None:
        raise Wrong(f"{told(value)} is no quantity", "Write a whole number, or one with K, M, G or T: 10G.")
    return Quantity(int(match[1]) << 10 * "_KMGT".index(match[2] or "_"))


def _choice(value: Any, kind: Any) -> Any:
    choices = get_args(kind)
    # YAML 1.1 reads off as false.
    value = "off" if value is False and "off" in choices else value
    value = str(value) if isinstance(value, float) else value
    if value not in choices:
        raise Wrong(f"{told(value)} is not known here", did_you_mean(str(value), choices))
    return value


def _ports(value: Any, _: Any = None) -> PortRange:
    match = re.fullmatch(r"([0-9]{1,5})(?:\s*-\s*([0-9]{1,5}))?", str(value))
    if match is None:
        raise Wrong(f"{told(value)} is not a range of ports", "Write it as 50000-50999.")
    low, high = int(match[1]), int(match[2] or match[1])
    if low > high:
        raise Wrong(f"the range {value} runs backwards", f"Write {high}-{low}.")
    if not 1024 <= low <= high <= 65535:
        raise Wrong(f"the range {value} is outside of 1024-65535", "Write it as 50000-50999.")
    return PortRange(low, high)


def _network(value: Any, _: Any = None) -> Network:
    try:
        network = ipaddress.ip_network(_text(value))
    except ValueError as error:
        raise Wrong(f"{told(value)} is not a network ({error})", "Write it as 10.0.0.0/8.") from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:  # its clients are seen as IPv4
        return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def _moment(value: Any, _: Any = None) -> datetime:
    """The end of a day, or a moment; in the server's time zone unless it names one."""
    try:
        moment = datetime.fromisoformat(_text(value).strip())
        if len(value.strip()) <= 10:
            moment += timedelta(days=1)
        return moment.astimezone()
    except OverflowError:
        raise Wrong(
            f"{told(value)} is beyond the last day that there is", "Leave it out for an account without an end."
        ) from None
    except ValueError:
        remedy = "Write it as 2027-01-31, or 2027-01-31 18:00."
        raise Wrong(f"{told(value)} is neither a date nor a date with a time", remedy) from None


def _hours(value: Any, _: Any = None) -> Hours:
    text = _text(value).strip()
    match = re.fullmatch(r"(?:([A-Za-z,\s-]+)\s)?\s*(\d{1,2}):(\d\d)\s*-\s*(\d{1,2}):(\d\d)", text)
    if match is None:
        raise Wrong(f"{told(value)} is not a time of the week", "Write it as Mon-Fri 08:00-18:00.")
    start, end = (_minutes(hour, minute) for hour, minute in ((match[2], match[3]), (match[4], match[5])))
    if start == end or start == 24 * 60:
        raise Wrong(f"{told(value)} is no span of time", "Write 00:00-24:00 for the whole day.")
    return Hours(_days(match[1]), start, end, text)


def _minutes(hour: str, minute: str) -> int:
    minutes = int(hour) * 60 + int(minute)
    if int(minute) > 59 or minutes > 24 * 60:
        raise Wrong(f"{hour}:{minute} is not a time of the day", "Write a time from 00:00 to 24:00.")
    return minutes


def _days(text: str | None) -> frozenset[int]:
    """`Mon-Fri,Sun`; a range may go over the end of the week. None for every day."""
    days: set[int] = set()
    for span in text.split(",") if text else ("Mon-Sun",):
        first, last = (_day(each.strip()) for each in (span.split("-", 1) * 2)[:2])
        days.update(day % 7 for day in range(first, last + 1 if last >= first else last + 8))
    return frozenset(days)


def _day(name: str) -> int:
    if name.capitalize() not in DAYS:
        raise Wrong(f"{told(name)} is not a day", did_you_mean(name.capitalize(), DAYS))
    return DAYS.index(name.capitalize())


def _pattern(value: Any, _: Any = None) -> Pattern:
    if not _text(value) or "/" in value:
        raise Wrong(f"{told(value)} is no pattern for a name", "Write one for a name alone, without /, as *.exe.")
    return Pattern(value)


def _umask(value: Any, _: Any = None) -> Umask:
    if not isinstance(value, str):
        # YAML 1.1 reads 022 as the number 18: what was meant cannot be told any more.
        raise Wrong(f"{told(value)} is what YAML makes of it, and no umask", 'Write octal digits in quotes, as "022".')
    if not re.fullmatch("0?[0-7]{3}", value):
        raise Wrong(f"{told(value)} is no umask", 'Write three octal digits in quotes, as "022".')
    return Umask(value, 8)


def _permissions(value: Any, _: Any = None) -> frozenset[str]:
    if isinstance(value, str):
        if value not in PROFILES:
            raise Wrong(f"{told(value)} is not known here", did_you_mean(value, PROFILES))
        return PROFILES[value]
    if not isinstance(value, list):
        raise Wrong(f"{told(value)} is no list of permissions", "Write read-only, read-write, upload-only or a list.")
    for each in value:
        if each not in PERMISSIONS:
            raise Wrong(f"{told(each)} is no permission", did_you_mean(str(each), PERMISSIONS))
    return frozenset(value)


def _paths(value: Any, _: Any = None) -> dict[tuple[str, ...], frozenset[str]]:
    if not isinstance(value, dict):
        raise Wrong("this is not a mapping of paths to permissions", "Write it as {/archive: read-only}.")
    result = {}
    for path, permissions in value.items():
        if not path.startswith("/"):
            raise Wrong(f"the path {path} does not start with /", f"Write /{path}.")
        result[VirtualPath().join(path).parts] = _permissions(permissions)
    return result


# --- a whole file ----------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _converter(base: Path) -> cattrs.Converter:
    """A converter without any coercion; relative paths are meant from `base`."""
    converter = cattrs.Converter(detailed_validation=True)

    def path(value: Any, _: Any = None) -> Path:
        return base / _text(value)

    hooks: dict[Any, Callable[[Any, Any], Any]] = {
        str: _text,
        bool: _flag,
        int: _number,
        Quantity: _quantity,
        Path: path,
        PortRange: _ports,
        Network: _network,
        Hours: _hours,
        datetime: _moment,
        Pattern: _pattern,
        Umask: _umask,
    }
    for kind, hook in hooks.items():
        converter.register_structure_hook(kind, hook)
    converter.register_structure_hook_func(lambda kind: str(get_origin(kind)) == str(Literal), _choice)
    converter.register_structure_hook_func(lambda kind: kind == frozenset[str], _permissions)
    converter.register_structure_hook_func(lambda kind: kind == dict[tuple[str, ...], frozenset[str]], _paths)
    converter.register_structure_hook_func(
        lambda kind: kind == ForeignData, lambda value, _: _foreign_data(converter, value)
    )
    converter.register_structure_hook_func(_is_sequence, lambda value, kind: _sequence(converter, value, kind))
    converter.register_structure_hook_factory(
        attrs.has, lambda cls: _section(cls, make_dict_structure_fn(cls, converter))
    )
    return converter


def _is_sequence(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[1:] == (Ellipsis,)


class At(ValueError):
    """Faults of the entries of a list, each with its index."""

    def __init__(self, errors: list[tuple[int, Exception]]) -> None:
        super().__init__("entries")
        self.errors = errors


def _sequence(converter: cattrs.Converter, value: Any, kind: Any) -> Any:
    if not isinstance(value, list):
        raise Wrong("a list is expected here", "Start each entry with a dash, or use [ ].")
    result: list[Any] = []
    errors: list[tuple[int, Exception]] = []
    for index, each in enumerate(value):
        try:
            result.append(converter.structure(each, get_args(kind)[0]))
        except Exception as error:
            errors.append((index, error))
    if errors:
        raise At(errors)
    return tuple(result)


def _foreign_data(converter: cattrs.Converter, value: Any) -> ForeignData:
    if isinstance(value, bool):
        return value
    if not isinstance(value, list):
        remedy = "Write true, false, or a list of networks: [198.51.100.0/24]."
        raise Wrong(f"{told(value)} is neither true nor false, nor a list of networks", remedy)
    networks: tuple[Network, ...] = _sequence(converter, value, tuple[Network, ...])
    return networks


def _section(cls: type[T], structure: Callable[[Any, Any], T]) -> Callable[[Any, Any], T]:
    def checked(value: Any, kind: Any) -> T:
        value = {} if value is None else value  # a section of which nothing is said
        if not isinstance(value, dict):
            raise Wrong("keys are expected below this one", "Write them indented, one in a line.")
        return structure(value, kind)

    return checked


def _faults(document: Document, error: BaseException, key: Key) -> None:
    """cattrs' tree of errors as faults of the document."""
    if isinstance(error, Wrong):
        document.fault(key, error.problem, error.remedy)
    elif isinstance(error, At):
        for index, each in error.errors:
            _faults(document, each, (*key, index))
    elif isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            _faults(document, inner, (*key, *_attribute(inner)))
    elif isinstance(error, KeyError):
        name = str(error.args[0])
        document.fault((*key, name), "is missing", f"Add {name}.")
    else:
        document.fault(key, f"cannot be used ({error})", "See ftpsd.yaml(5).")


def _attribute(error: BaseException) -> Iterator[str]:
    for note in getattr(error, "__notes__", ()):
        match = re.search(r"@ attribute (\w+)", str(note))
        if match and not isinstance(error, KeyError):  # a missing key names itself already
            yield match[1]


def _unknown(document: Document, value: Any, cls: Any, key: Key) -> None:
    """Unknown keys, at any depth; cattrs would name them without a line."""
    if not isinstance(value, dict) or not attrs.has(cls):
        return
    fields = {field.name: field.type for field in attrs.fields(attrs.resolve_types(cls))}
    for name, below in value.items():
        if name not in fields:
            document.fault((*key, name), "is not a key that is known here", did_you_mean(name, fields))
        elif attrs.has(fields[name]):  # type: ignore[arg-type]
            _unknown(document, below, fields[name], (*key, name))
        elif _is_sequence(fields[name]) and isinstance(below, list):
            for index, each in enumerate(below):
                _unknown(document, each, get_args(fields[name])[0], (*key, name, index))


def structure(document: Document, value: Any, cls: type[T], key: Key = ()) -> T | None:
    _unknown(document, value, cls, key)
    try:
        return _converter(document.path.parent).structure({} if value is None else value, cls)
    except (Wrong, At, KeyError, BaseExceptionGroup) as error:
        _faults(document, error, key)
    return None
