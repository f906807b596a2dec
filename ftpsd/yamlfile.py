"""A YAML file as plain values that remember their lines, and the faults found in it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

#: Keys and indices from the top of the file to a value.
Key = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """What is wrong, where, and what to write instead."""

    file: str
    line: int
    key: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        key = f" {self.key}:" if self.key else ""
        return f"{where}:{key} {self.problem}. {self.remedy}"


class Faulty(Exception):
    """The configuration cannot be used; `faults` tells all that was found."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = sorted(set(faults))
        super().__init__("\n".join(str(fault) for fault in self.faults))


@dataclass
class Document:
    """A file that was read: its value, the line of every key, and a list for its faults."""

    path: Path
    value: Any = None
    lines: dict[Key, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, key: Key, problem: str, remedy: str) -> None:
        """Notes a fault at a key, or at the nearest one above it that is in the file."""
        line = next((self.lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in self.lines), 0)
        self.faults.append(Fault(str(self.path), line, dotted(key), problem, remedy))


def dotted(key: Key) -> str:
    """`passive.networks[0].address`"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy for a word that is not known."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, 1, 0.6)
    return f"Did you mean {near[0]}?" if near else f"Write one of: {', '.join(known)}."


def read(path: Path) -> Document:
    """Reads a file. A document whose value is None has at least one fault, or is empty."""
    document = Document(path)
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        document.fault((), f"the file is not UTF-8 (byte {error.start})", "Save it as UTF-8.")
        return document
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        document.fault((), f"cannot be read: {reason}", "Make it readable for the daemon, or name another file.")
        return document
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            document.value = _value(document, node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        document.lines[()] = mark.line + 1 if mark else 0
        document.fault((), f"is not YAML: {error.problem or error.context}", "Correct the line.")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        document.fault((), f"is not YAML: {str(error).splitlines()[0]}", "Correct the file.")
    return document


def _value(document: Document, node: yaml.Node, key: Key) -> Any:
    document.lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        return _mapping(document, node, key)
    if isinstance(node, yaml.SequenceNode):
        return [_value(document, each, (*key, index)) for index, each in enumerate(node.value)]
    if node.tag == "tag:yaml.org,2002:timestamp":
        return node.value  # a date is text to us
    return _construct(node)


def _construct(node: yaml.Node) -> Any:
    return yaml.SafeLoader("").construct_object(node, deep=True)


def _mapping(document: Document, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name_node, value_node in node.value:
        name = str(name_node.value) if isinstance(name_node, yaml.ScalarNode) else "?"
        below = (*key, name)
        line = name_node.start_mark.line + 1
        if name in result:
            first = document.lines[below]
            document.lines[below] = line
            document.fault(below, f"stands twice, first in line {first}", "Remove one of the two.")
            continue
        document.lines[below] = line
        result[name] = _value(document, value_node, below)
    return result
