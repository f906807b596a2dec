"""The keys of a user's file: read, changed by `--set KEY=VALUE`, and written as YAML."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from ftpsd.cli.failure import CommandFailed, WrongUsage
from ftpsd.config.faults import quoted
from ftpsd.config.sections.values import Value
from ftpsd.config.yaml import read

#: The keys of one user.
Values = dict[str, Value]

_HEADER = "# The keys of one user, see ftpsd-users.yaml(5). `ftpsd user` rewrites this file, and keeps no comments.\n"


def parse(path: Path, data: bytes) -> Values:
    """Return the keys in the content of a file. Raises CommandFailed with the faults if it is no mapping."""
    document = read(path, data)
    value = document.value
    if not document.faults and not isinstance(value, dict | None):
        document.fault((), "must be a mapping", "Write the keys of the user.")
    if document.faults:
        raise CommandFailed("\n".join(map(str, document.faults)))
    return dict(value) if isinstance(value, dict) else {}


def text(values: Values) -> bytes:
    """Return the content of a file with these keys."""
    # libyaml reads some characters otherwise than PyYAML writes them (U+0085 is a line break): those need escapes.
    for plain in (True, False):
        # A line break within a hash would be valid, but hard to read.
        body: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=plain, width=1 << 20)
        data = (_HEADER + body).encode()
        if read(Path(), data).value == values:
            return data
    raise CommandFailed("the value cannot be written as YAML")


def assignment(word: str) -> tuple[str, Value]:
    """Return key and value of `KEY=VALUE`; the value is YAML. Raises WrongUsage."""
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise WrongUsage(f"{quoted(word)} is not KEY=VALUE, for example quota.bytes=10G")
    document = read(Path(f"--set {key}"), value.encode("utf-8", "surrogateescape"))
    if document.faults:
        raise WrongUsage("\n".join(map(str, document.faults)))
    return key, document.value


def permissions(word: str) -> Value:
    """Return the value of `--permissions`: a profile, or a list with commas."""
    return [each.strip() for each in word.strip("[]").split(",")] if "," in word or "[" in word else word


def change(values: Values, assigned: Iterable[tuple[str, Value]], removed: Iterable[str] = ()) -> Values:
    """Return the keys after some are removed and some set. `quota.bytes` is a key in a section."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for key in removed:
        section, _, rest = key.partition(".")
        inside = result.get(section)
        if not rest:
            result.pop(section, None)
        elif isinstance(inside, dict):
            inside.pop(rest, None)
            if not inside:
                del result[section]
    for key, value in assigned:
        section, _, rest = key.partition(".")
        if not rest:
            result[section] = value
            continue
        inside = result.get(section)
        if not isinstance(inside, dict):
            inside = result[section] = {}
        inside[rest] = value
    return result
