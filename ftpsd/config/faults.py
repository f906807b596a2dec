"""Faults in configuration files: each names file, line and key, what is wrong, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

#: Keys and list indices from the top of a file to a value.
Key = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One fault in a configuration file. Line 0 stands for the whole file."""

    file: str
    line: int
    key: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        key = f" {self.key}:" if self.key else ""
        text = f"{where}:{key} {self.problem}. {self.remedy}"
        # One line, whatever the fault quotes from the file: it is printed to logs and terminals.
        return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


@dataclass(frozen=True, slots=True)
class ConfigurationWarning:
    """What works, but should be changed or will soon stop working. `key` is in `ftpsd.yaml`."""

    key: Key
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem}: {self.remedy}"


class InvalidConfiguration(Exception):
    """The configuration cannot be used; `faults` has every fault that was found."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = sorted(set(faults))
        super().__init__("\n".join(str(fault) for fault in self.faults))


def dotted(key: Key) -> str:
    """Return a key as text: `passive.networks[0].address`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


def quoted(value: object) -> str:
    """Return a value from a configuration file as a fault shows it."""
    return "null" if value is None else f"“{value}”" if isinstance(value, str) else repr(value)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the remedy for a word that is not among the known ones."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, 1, 0.6)
    return f"Did you mean {near[0]}?" if near else f"Write one of: {', '.join(known)}."
