"""A YAML file as plain values that remember their lines, and the faults found in it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ftpsd.landlock import RESTART, shut_out

#: Keys and indices from the top of the file to a value.
Key = tuple[str | int, ...]

#: Values that a file has for each of its characters, at most: aliases of aliases make billions of a few lines.
_MOST_VALUES = 10

#: No number that is meant is larger, and Python refuses to print one of some thousand digits.
_LARGEST_NUMBER = 2**63 - 1


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
        text = f"{where}:{key} {self.problem}. {self.remedy}"
        # One line, whatever was quoted from the file: it goes to logs and terminals.
        return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


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
    #: So many lines are kept; more means that aliases make too much of it.
    most: int = 0

    def fault(self, key: Key, problem: str, remedy: str) -> None:
        """Notes a fault at a key, or at the nearest one above it that is in the file."""
        line = next((self.lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in self.lines), 0)
        self.faults.append(Fault(str(self.path), line, dotted(key), problem, remedy))

    def unreadable(self, key: Key, path: Path, error: OSError) -> None:
        """Notes that a file cannot be read: this one, or another that a key of it names."""
        name = "" if path == self.path else f"{path} "
        reason = (error.strerror or str(error)).lower()
        remedy = RESTART if shut_out(path) else "Make it readable for the daemon, or name another file."
        self.fault(key, f"{name}cannot be read: {reason}", remedy)


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
        document.unreadable((), path, error)
        return document
    document.most = _MOST_VALUES * len(text)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            document.value = _value(document, node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        document.lines = {(): mark.line + 1 if mark else 0}
        document.fault((), f"is not YAML: {error.problem or error.context}", "Correct the line.")
    except yaml.reader.ReaderError as error:
        document.lines = {(): text.count("\n", 0, error.position) + 1}
        document.fault((), f"is not YAML: {str(error).splitlines()[0]}", "Correct the line.")
    except RecursionError:
        document.lines = {}
        document.fault((), "the file is nested too deeply, or a part of it holds itself", "Correct the file.")
    return document


def _value(document: Document, node: yaml.Node, key: Key) -> Any:
    document.lines.setdefault(key, node.start_mark.line + 1)
    if len(document.lines) > document.most:
        raise _wrong("aliases make far too many values of it", node)
    if isinstance(node, yaml.MappingNode):
        return _mapping(document, node, key)
    if isinstance(node, yaml.SequenceNode):
        return [_value(document, each, (*key, index)) for index, each in enumerate(node.value)]
    if node.tag == "tag:yaml.org,2002:timestamp":
        return _text(node.value, node)  # a date is text to us
    return _construct(node)


def _construct(node: yaml.Node) -> Any:
    try:
        value = yaml.SafeLoader("").construct_object(node, deep=True)
    except (ValueError, LookupError, OverflowError):  # what PyYAML lets through of "!!bool x" and the like
        raise _wrong(f"“{node.value}” is no {node.tag.rpartition(':')[2]}", node) from None
    if isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
        raise _wrong("the number is too large", node)
    return _text(value, node) if isinstance(value, str) else value


def _text(text: str, node: yaml.Node) -> str:
    """Text that can be sent, written to a log and be a path: escapes ("\\0", "\\ud800") make other text, too."""
    if "\0" in text or any("\ud800" <= each <= "\udfff" for each in text):
        raise _wrong("there is a NUL or half a character in it", node)
    return text


def _wrong(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _mapping(document: Document, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name_node, value_node in node.value:
        name = _text(str(name_node.value), name_node) if isinstance(name_node, yaml.ScalarNode) else "?"
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
