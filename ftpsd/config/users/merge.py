"""Merge the settings of a user: the defaults, the groups in their order, and the user's own keys.

A layer is a mapping of the keys of one user, as the file has it. `RULES` says for each key which layer decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from ftpsd.config.sections.values import Value

#: The keys of a user, or those of a group or of the defaults.
Record = Mapping[str, Value]

#: How a key is merged that more than one of the groups and the user have:
#: last     the last of them decides: the user, otherwise the last group that has the key
#: entries  a mapping: the entries of all of them; the last of them decides about an entry that several have
#: all      what one of them forbids stays forbidden: a list has the entries of all, and false wins
#: The defaults hold only for keys that none of them has.
Rule = Literal["last", "entries", "all"]

RULES: Mapping[str, Rule] = {
    "password": "last",
    "home": "last",
    "groups": "last",
    "permissions": "last",
    "paths": "entries",
    "folders": "entries",
    "tls.data_session": "last",
    "tls.close_notify": "last",
    "quota.bytes": "last",
    "quota.files": "last",
    "limits.sessions": "last",
    "limits.transfers": "last",
    "limits.upload_rate": "last",
    "limits.download_rate": "last",
    "limits.session_upload_rate": "last",
    "limits.session_download_rate": "last",
    "enabled": "all",
    "networks.allow": "last",
    "networks.deny": "all",
    "expires": "last",
    "hours": "last",
    "names.deny": "all",
    "names.hide": "all",
    "names.encoding": "last",
    "umask": "last",
    "totp": "last",
    "certificates": "last",
}

#: Keys whose keys are merged one by one.
_SECTIONS = frozenset(key.partition(".")[0] for key in RULES if "." in key)

#: A key, or a section and a key in it.
_Path = tuple[str, ...]


def merge(defaults: Record, layers: Sequence[Record]) -> dict[str, Value]:
    """Return the effective keys of a user; `layers` are the user's groups in their order, then the user."""
    merged: dict[_Path, Value] = {}
    cleared: set[str] = set()
    for layer in layers:
        for path, value in _flat(layer):
            if value is None and path[0] in _SECTIONS and len(path) == 1:
                # `quota: null` removes the keys of the layers below, but permits nothing that they forbid.
                cleared.add(path[0])
                merged = {each: old for each, old in merged.items() if each[0] != path[0] or _rule(each) == "all"}
            else:
                merged[path] = _combined(_rule(path), merged[path], value) if path in merged else value
    common = {path: value for path, value in _flat(defaults) if path[0] not in cleared}
    return _nested({**common, **merged})


def merge_paths(below: Record, above: Record) -> dict[str, Value]:
    """Return the entries of two mappings by path; of two for one path, however it is written, that of `above`."""
    names = set(map(_names, above))
    return {**{path: value for path, value in below.items() if _names(path) not in names}, **above}


def _names(path: str) -> tuple[str, ...]:
    return tuple(filter(None, path.split("/")))


def origins(key: str, layers: Sequence[Record]) -> list[int]:
    """Return which layers a key's effective value comes from; `layers` begins with the defaults."""
    having = [number for number, layer in enumerate(layers) if _has(layer, key)]
    if RULES.get(key, "last") == "last":
        return having[-1:]
    return [number for number in having if number] or having


def _rule(path: _Path) -> Rule:
    return RULES.get(".".join(path), "last")


def _combined(rule: Rule, below: Value, above: Value) -> Value:
    if rule == "entries" and isinstance(below, dict) and isinstance(above, dict):
        return merge_paths(below, above)
    if rule == "all" and isinstance(below, list) and isinstance(above, list):
        return [*below, *(each for each in above if each not in below)]
    if rule == "all" and isinstance(below, bool) and isinstance(above, bool):
        return below and above
    return above


def _flat(layer: Record) -> Iterator[tuple[_Path, Value]]:
    """Yield the keys of a layer; those of a section as (section, key)."""
    for name, value in layer.items():
        if name in _SECTIONS and isinstance(value, dict):
            for inner, each in value.items():
                yield (name, inner), each
        else:
            yield (name,), value


def _nested(flat: Mapping[_Path, Value]) -> dict[str, Value]:
    """Return the keys that `_flat` has yielded. A section that is no mapping, which is a fault, stays as it is."""
    nested: dict[str, Value] = {}
    for path, value in flat.items():
        if len(path) == 1:
            nested[path[0]] = value
            continue
        inside = nested.setdefault(path[0], {})
        if isinstance(inside, dict):
            inside[path[1]] = value
    return nested


def _has(layer: Record, key: str) -> bool:
    """Return whether a layer has a key, or a section that is null, which removes the key."""
    section, _, name = key.partition(".")
    if not name or section not in layer:
        return section in layer
    inside = layer[section]
    return name in inside if isinstance(inside, dict) else True
