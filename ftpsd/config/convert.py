"""Convert plain YAML values to settings with cattrs. Values that do not fit become faults of the document."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache, partial
from operator import eq
from pathlib import Path
from types import UnionType
from typing import Literal, TypeVar, cast, get_args, get_origin

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn

from ftpsd.config import scalars
from ftpsd.config.faults import Key, quoted, suggestion
from ftpsd.config.scalars import InvalidValue
from ftpsd.config.sections.events import PathPattern
from ftpsd.config.sections.folders import FolderSettings
from ftpsd.config.sections.passive import SharedPassiveSettings
from ftpsd.config.sections.sources import SOURCES, SourceSettings
from ftpsd.config.sections.storage import Credentials, S3Storage, StoreHome, StorePath, StorePlace
from ftpsd.config.sections.tls import Files
from ftpsd.config.sections.values import Quantity, UserValues
from ftpsd.config.settings import (
    Encoding,
    Fingerprint,
    ForeignData,
    HomePlace,
    Pattern,
    PortRange,
    TotpSecret,
    Umask,
    WorkerCount,
)
from ftpsd.config.yaml import Document
from ftpsd.protocol.login_rules import Hours, Network

T = TypeVar("T")

#: Converts a plain value to the type of a setting.
Convert = Callable[[object], object]

#: A conversion as cattrs calls it: with the value and the type.
Hook = Callable[..., object]


class InvalidEntries(ValueError):
    """Errors of the entries of a list or mapping, each with its index or key."""

    def __init__(self, errors: Sequence[tuple[str | int, Exception]]) -> None:
        super().__init__("entries")
        self.errors = errors


def structure(document: Document, value: object, cls: type[T], key: Key = ()) -> T | None:
    """Return the settings of a section whose value stands at a key; None if there are faults.

    Unknown keys are faults, too, but do not keep the settings from being returned.
    """
    _check_keys(document, value, cls, key)
    try:
        return _converter(document.path.parent).structure({} if value is None else value, cls)
    except (InvalidValue, InvalidEntries, KeyError, BaseExceptionGroup) as error:
        _add_faults(document, error, key)
    return None


# --- values ----------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _converter(base: Path) -> cattrs.Converter:
    """Return a converter for files in the directory `base`, to which their paths are relative."""
    converter = cattrs.Converter(detailed_validation=True)
    for kind, convert in _of_classes(base):
        converter.register_structure_hook(kind, partial(_ignore_type, convert))
    for generic, convert in _of_generics(converter, base):
        converter.register_structure_hook_func(partial(eq, generic), partial(_ignore_type, convert))
    converter.register_structure_hook_func(lambda kind: str(get_origin(kind)) == str(Literal), scalars.choice)
    converter.register_structure_hook_func(_is_sequence, lambda value, kind: _sequence(converter, value, kind))
    _register_sections(converter)
    return converter


def _of_classes(base: Path) -> list[tuple[type, Convert]]:
    """Return the conversions of values whose type is a class."""
    return [
        (str, scalars.string),
        (bool, scalars.boolean),
        (int, scalars.integer),
        (_as_type(Quantity), scalars.quantity),
        (Path, lambda value: base / scalars.string(value)),
        (_as_type(UserValues), scalars.user_values),
        (PortRange, scalars.ports),
        (_as_type(Network), scalars.network),
        (Hours, scalars.hours),
        (datetime, scalars.moment),
        (Pattern, scalars.pattern),
        (PathPattern, scalars.path_pattern),
        (Umask, scalars.umask),
        (Encoding, scalars.encoding),
        (TotpSecret, scalars.totp_secret),
        (Fingerprint, scalars.fingerprint),
        (StorePath, scalars.store_path),
    ]


def _of_generics(converter: cattrs.Converter, base: Path) -> list[tuple[object, Convert]]:
    """Return the conversions of mappings, sets and unions, whose types are no classes."""
    return [
        (frozenset[str], scalars.permissions),
        (dict[tuple[str, ...], frozenset[str]], scalars.paths),
        (ForeignData, lambda value: _foreign_data(converter, value)),
        (dict[str, str], scalars.texts),
        (WorkerCount, scalars.worker_count),
        (dict[tuple[str, ...], FolderSettings], lambda value: _folders(converter, value)),
        (dict[str, S3Storage], lambda value: _named(converter, value, S3Storage)),
        (HomePlace | None, lambda value: _home(converter, value)),
        (HomePlace, lambda value: _public_home(converter, value, base)),
        (Files, lambda value: converter.structure(value, tuple[Path, ...] if isinstance(value, list) else Path)),
    ]


def _register_sections(converter: cattrs.Converter) -> None:
    """Register the conversions of sections: classes of settings, and unions with None for those that may be absent.

    cattrs asks the function that was registered last first.
    """
    # A section that may be absent: `metrics:` without any key is there, and has the defaults.
    converter.register_structure_hook_func(
        lambda kind: optional_section(kind) is not None,
        lambda value, kind: converter.structure({} if value is None else value, cast(type, optional_section(kind))),
    )
    converter.register_structure_hook_func(
        partial(eq, SharedPassiveSettings | None), lambda value, _: _shared_passive(converter, value)
    )
    converter.register_structure_hook_factory(attrs.has, lambda cls: _section(make_dict_structure_fn(cls, converter)))
    converter.register_structure_hook_func(
        lambda kind: kind is Credentials,
        partial(_credentials, _section(make_dict_structure_fn(Credentials, converter))),
    )
    converter.register_structure_hook_func(
        lambda kind: kind is SourceSettings,
        lambda value, _: converter.structure(value, _source_class(value)),
    )


def _ignore_type(convert: Convert, value: object, _: object) -> object:
    return convert(value)


def _as_type(kind: object) -> type:
    """Return a NewType or a union as mypy takes it where cattrs takes both."""
    return cast(type, kind)


def _is_sequence(kind: object) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[1:] == (Ellipsis,)


def optional_section(kind: object) -> type | None:
    """Return the class of a section that may be absent, whose type is `Class | None`; None for any other type."""
    choices = [each for each in get_args(kind) if each is not type(None)]
    is_optional = isinstance(kind, UnionType) and len(choices) == 1 and attrs.has(choices[0])
    return cast(type, choices[0]) if is_optional else None


def _sequence(converter: cattrs.Converter, value: object, kind: object) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise InvalidValue("must be a list", "Start each entry with a dash, or write [a, b].")
    result: list[object] = []
    errors: list[tuple[int, Exception]] = []
    for index, each in enumerate(value):
        try:
            result.append(converter.structure(each, get_args(kind)[0]))
        except Exception as error:
            errors.append((index, error))
    if errors:
        raise InvalidEntries(errors)
    return tuple(result)


def _foreign_data(converter: cattrs.Converter, value: object) -> object:
    if isinstance(value, bool):
        return value
    if not isinstance(value, list):
        remedy = "Write true, false, or a list of networks: [198.51.100.0/24]."
        raise InvalidValue(f"{quoted(value)} is neither a boolean nor a list of networks", remedy)
    return _sequence(converter, value, tuple[Network, ...])


def _shared_passive(converter: cattrs.Converter, value: object) -> SharedPassiveSettings | None:
    if value is None or value is False:
        return None
    if value is not True and not isinstance(value, dict):
        problem = f"{quoted(value)} is neither a boolean nor a mapping"
        raise InvalidValue(problem, "Write true, false, or {ambiguous: refuse}.")
    return converter.structure({} if value is True else value, SharedPassiveSettings)


def _source_class(value: object) -> type[SourceSettings]:
    """Return the class of an entry of `users.sources`."""
    if not isinstance(value, dict):
        raise InvalidValue("must be a mapping", "Write type: and the other keys of the source below it, indented.")
    if "type" not in value:
        raise InvalidValue("has no type", f"Add type: {', '.join(sorted(SOURCES))}.")
    found = SOURCES.get(value["type"]) if isinstance(value["type"], str) else None
    if found is None:
        raise InvalidValue(f"{quoted(value['type'])} is not a type of source", suggestion(str(value["type"]), SOURCES))
    return found


def _folders(converter: cattrs.Converter, value: object) -> dict[tuple[str, ...], FolderSettings]:
    """Return folders by path. An entry that is null stands for no folder: it removes that of a group, or for all."""
    if not isinstance(value, dict):
        raise InvalidValue("must be a mapping of paths to folders", "Write it as {/shared: {path: /srv/shared}}.")
    found: dict[tuple[str, ...], FolderSettings] = {}
    errors: list[tuple[str | int, Exception]] = []
    for path, folder in value.items():
        try:
            at = scalars.folder_path(path)
            if at in found:
                raise InvalidValue("has the path of another folder", "Remove one of the two.")
            if folder is not None:
                found[at] = converter.structure(folder, FolderSettings)
        except Exception as error:
            errors.append((path, error))
    if errors:
        raise InvalidEntries(errors)
    return found


def _named(converter: cattrs.Converter, value: object, cls: type[T]) -> dict[str, T]:
    """Return the entries of a section by their names."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidValue(
            "must be a mapping of names", "Write each name with a colon, and its keys below it, indented."
        )
    found: dict[str, T] = {}
    errors: list[tuple[str | int, Exception]] = []
    for name, each in value.items():
        try:
            found[name] = converter.structure(each, cls)
        except Exception as error:
            errors.append((name, error))
    if errors:
        raise InvalidEntries(errors)
    return found


def _home(converter: cattrs.Converter, value: object) -> str | None:
    """Return a home: a directory, or a place in a store."""
    if isinstance(value, dict):
        return converter.structure(value, StoreHome).place
    if value is not None and not isinstance(value, str):
        remedy = 'Write it in quotes, or as {storage: NAME, path: "{user}/"}.'
        raise InvalidValue(f"{quoted(value)} is neither a directory nor a place in a store", remedy)
    return value


def _public_home(converter: cattrs.Converter, value: object, base: Path) -> str:
    """Return the home of anonymous users. A directory is relative to the file."""
    found = _home(converter, scalars.string(value) if value is None else value)
    assert found is not None
    if not found:
        raise InvalidValue("is empty", "Write the directory with what everybody may read.")
    return found if isinstance(found, StorePlace) else str(base / found)


def _credentials(structure_section: Hook, value: object, kind: object) -> object:
    if value is None or value == "default":
        return Credentials()
    if not isinstance(value, dict):
        remedy = "Write default, {access_key_id: …, secret_access_key_file: …}, or {role: …}."
        raise InvalidValue(f"{quoted(value)} names no credentials", remedy)
    return structure_section(value, kind)


def _section(structure_section: Hook) -> Hook:
    def checked(value: object, kind: object) -> object:
        value = {} if value is None else value  # a section without any key
        if not isinstance(value, dict):
            raise InvalidValue("must be a mapping", "Write its keys below it, indented, one in each line.")
        return structure_section(value, kind)

    return checked


# --- faults ----------------------------------------------------------------------------------------


def _add_faults(document: Document, error: BaseException, key: Key) -> None:
    """Add the errors in a tree that cattrs has raised as faults."""
    if isinstance(error, InvalidValue):
        document.fault(key, error.problem, error.remedy)
    elif isinstance(error, InvalidEntries):
        for index, each in error.errors:
            _add_faults(document, each, (*key, index))
    elif isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            _add_faults(document, inner, (*key, *_attribute(inner)))
    elif isinstance(error, KeyError):
        name = str(error.args[0])
        document.fault((*key, name), "is missing", f"Add {name}.")
    else:
        document.fault(key, f"cannot be used ({error})", "See ftpsd.yaml(5).")


def _attribute(error: BaseException) -> Iterator[str]:
    """Yield the attribute to which cattrs attributes an error. A missing key has its name in the error."""
    for note in getattr(error, "__notes__", ()):
        match = re.search(r"@ attribute (\w+)", str(note))
        if match and not isinstance(error, KeyError):
            yield match[1]


def _check_keys(document: Document, value: object, cls: type, key: Key) -> None:
    """Add a fault for each unknown key, at any depth. cattrs would report them without a line."""
    if not isinstance(value, dict) or not attrs.has(cls):
        return
    if cls is SourceSettings:
        kind = value.get("type")
        cls = SOURCES.get(kind, cls) if isinstance(kind, str) else cls
        if cls is SourceSettings:
            return  # the conversion reports the type
    fields = {field.name: field.type for field in attrs.fields(attrs.resolve_types(cls))}
    for name, below in value.items():
        kind = optional_section(fields.get(name)) or fields.get(name)
        kind = StoreHome if kind in (HomePlace, HomePlace | None) else kind
        if name not in fields:
            document.fault((*key, name), "unknown key", suggestion(name, fields))
        elif kind is not None and attrs.has(kind):
            _check_keys(document, below, kind, (*key, name))
        elif get_origin(kind) is dict and isinstance(below, dict):
            for path, each in below.items():
                _check_keys(document, each, get_args(kind)[1], (*key, name, path))
        elif _is_sequence(kind) and isinstance(below, list):
            for index, each in enumerate(below):
                _check_keys(document, each, get_args(kind)[0], (*key, name, index))
