"""A YAML file as plain values that remember their lines, and the faults found in it."""

from __future__ import annotations

import codecs
import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ftpsd.system.landlock import RESTART, shut_out

#: Keys and indices from the top of the file to a value.
Key = tuple[str | int, ...]

#: Values that a file has for each of its characters, at most: aliases of aliases make billions of a few lines.
_MOST_VALUES = 10

#: Collections within each other, at most.
_DEEPEST = 100

#: Bytes that are decoded in one call.
_PIECE = 65536

#: libyaml, where PyYAML was built with it: ten times as fast. Its composer and PyYAML's constructors are not.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_STR, _TIMESTAMP = "tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp"

#: Patterns of plain scalars that are no text, by their first characters.
_RESOLVERS = yaml.SafeLoader.yaml_implicit_resolvers

_LOADER: Any = yaml.SafeLoader("")
_CONSTRUCTORS: dict[str, Callable[[yaml.ScalarNode], Any]] = {
    f"tag:yaml.org,2002:{name}": getattr(_LOADER, f"construct_yaml_{name}") for name in ("null", "bool", "int", "float")
}

#: What no text may have in it, and what is said of it.
_NOT_IN_TEXT = re.compile("[\0\ud800-\udfff]")
_NO_TEXT = "there is a NUL or half a character in it"

#: Stands for a key that is no scalar.
_NO_NAME = "?"

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
    """A file that was read: its value, and a list for its faults. Lines are looked for when there is a fault."""

    path: Path
    value: Any = None
    #: The lines of some keys, where they are known without looking.
    lines: dict[Key, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    data: bytes = b""
    _tree: Tree | None = None

    def fault(self, key: Key, problem: str, remedy: str) -> None:
        """Notes a fault at a key, or at the nearest one above it that is in the file."""
        self.faults.append(Fault(str(self.path), self.line(key), dotted(key), problem, remedy))

    def line(self, key: Key) -> int:
        """Return the line of a key, or of the nearest one above it that is in the file; 0 if there is none."""
        for length in range(len(key), -1, -1):
            if key[:length] in self.lines:
                return self.lines[key[:length]]
        if self._tree is None:
            self._tree = Tree(self.data)
        return self._tree.line(key)

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
        document.data = path.read_bytes()
    except OSError as error:
        document.unreadable((), path, error)
        return document
    position = _not_utf_8(document.data)
    if position is not None:
        document.lines = {(): 0}
        document.fault((), f"the file is not UTF-8 (byte {position})", "Save it as UTF-8.")
        return document
    try:
        document.value = _Builder(document).build()
    except yaml.MarkedYAMLError as error:
        if "maximum nesting depth" in str(error.problem):
            return _nested(document)
        mark = error.problem_mark or error.context_mark
        document.lines = {(): min(mark.line + 1, _last_line(document.data)) if mark else 0}
        problem = str(error.problem or error.context)
        # libyaml's words for half a character ("\\ud800").
        problem = _NO_TEXT if "invalid Unicode character escape" in problem else problem
        document.fault((), f"is not YAML: {problem}", "Correct the line.")
    except yaml.reader.ReaderError as error:
        document.lines = {(): document.data.count(b"\n", 0, error.position) + 1}
        document.fault((), f"is not YAML: {str(error).splitlines()[0]}", "Correct the line.")
    except RecursionError:
        return _nested(document)
    return document


def _nested(document: Document) -> Document:
    document.lines = {(): 0}
    document.fault((), "the file is nested too deeply, or a part of it holds itself", "Correct the file.")
    return document


def _last_line(data: bytes) -> int:
    """Return the number of the last line. libyaml places the end of the file below it, even if it has no line end."""
    return data.count(b"\n") + data.count(b"\r") + 1


def _not_utf_8(data: bytes) -> int | None:
    """Return the position of the first byte that is not UTF-8. In pieces: one call for a large file would keep the
    reactor from running."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(data), _PIECE):
            decoder.decode(data[start : start + _PIECE])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        try:
            data.decode()
        except UnicodeDecodeError as error:
            return error.start
    return None


class Tree:
    """Where things stand in a file. It takes ten times as long as their values, and is made for faults only."""

    def __init__(self, data: bytes) -> None:
        self._below: dict[yaml.Node, dict[str | int, tuple[int, yaml.Node]]] = {}
        self._last_line = _last_line(data)
        try:
            self._root = yaml.compose(data, Loader=_Loader)
        except (yaml.YAMLError, RecursionError):
            self._root = None

    def line(self, key: Key) -> int:
        """Return the line of a key, or of the nearest one above it; 0 if the file has no value."""
        node = self._root
        line = node.start_mark.line + 1 if node is not None else 0
        for part in key:
            if node is None or part not in self._entries(node):
                break
            line, node = self._entries(node)[part]
        return min(line, self._last_line)

    def _entries(self, node: yaml.Node) -> dict[str | int, tuple[int, yaml.Node]]:
        found = self._below.get(node)
        if found is None:
            found = self._below[node] = {}
            if isinstance(node, yaml.MappingNode):
                for name, value in node.value:
                    text = str(name.value) if isinstance(name, yaml.ScalarNode) else _NO_NAME
                    found.setdefault(text, (name.start_mark.line + 1, value))
            elif isinstance(node, yaml.SequenceNode):
                found.update({index: (each.start_mark.line + 1, each) for index, each in enumerate(node.value)})
        return found


#: The name of a value that belongs to a key which stands in its mapping already, and of a key that is no text.
_TWICE, _IS_KEY = object(), object()


class _Builder:
    """Builds a file's value from the parser's events, without recursion and without a node for each scalar.

    PyYAML's own constructors take ten times as long, and would not tell of a key that stands twice.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self._loader = _Loader(document.data)
        self._most = _MOST_VALUES * len(document.data)
        self._count = 0
        #: What an anchor stands for: the value, how many values are in it, and its text if a scalar; None within it.
        self._anchors: dict[str, tuple[Any, int, str | None] | None] = {}
        #: Collections around the current one: each with the name under which the next value goes into it, its anchor,
        #: and how many values there were when it began.
        self._around: list[tuple[Any, Any, str | None, int]] = []

    def build(self) -> Any:
        """Return the value of the only document; None if there is none. Raises yaml.YAMLError or RecursionError."""
        get = self._loader.get_event
        get()  # the start of the stream
        if isinstance(get(), yaml.StreamEndEvent):
            return None
        value = self._value(get)
        get()  # the end of the document
        event = get()
        if not isinstance(event, yaml.StreamEndEvent):
            raise yaml.MarkedYAMLError(problem="but found another document", problem_mark=event.start_mark)
        return value

    def _value(self, get: Callable[[], Any]) -> Any:
        here: Any = None  # the innermost collection
        name: Any = None  # of the next value, if that is a mapping; None: a key comes
        anchor: str | None = None
        before = 0
        while True:
            event = get()
            kind = type(event)
            if kind is not yaml.AliasEvent and getattr(event, "anchor", None) in self._anchors:
                # PyYAML's composer, which `Tree` needs to find lines, refuses such a file, too.
                raise yaml.MarkedYAMLError(problem="found duplicate anchor", problem_mark=event.start_mark)
            if kind is yaml.ScalarEvent:
                if name is None and type(here) is dict:
                    if event.anchor is not None:
                        self._anchors[event.anchor] = (_scalar(event), 1, event.value)
                    name = self._key(here, _text(event.value, event), event)
                    continue
                value = _scalar(event)
                self._count += 1
                if event.anchor is not None:
                    self._anchors[event.anchor] = (value, 1, event.value)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                if len(self._around) >= _DEEPEST:
                    raise RecursionError
                name = _IS_KEY if name is None and type(here) is dict else name
                self._around.append((here, name, anchor, before))
                here, name, anchor, before = (
                    {} if kind is yaml.MappingStartEvent else [],
                    None,
                    event.anchor,
                    self._count,
                )
                if anchor is not None:
                    self._anchors[anchor] = None
                continue
            elif kind is yaml.AliasEvent:
                value, text = self._alias(event)
                if name is None and type(here) is dict:
                    name = self._key(here, _NO_NAME if text is None else text, event)
                    continue
            else:  # the end of a collection
                value, self._count = here, self._count + 1
                if anchor is not None:
                    self._anchors[anchor] = (here, self._count - before, None)
                here, name, anchor, before = self._around.pop()
                if name is _IS_KEY:
                    name = self._key(here, _NO_NAME, event)
                    continue
            if type(here) is dict:
                if name is not _TWICE:
                    here[name] = value
                name = None
            elif here is not None:
                here.append(value)
            else:
                return value

    def _key(self, here: dict[str, Any], name: str, event: Any) -> Any:
        if name not in here:
            return name
        # Where a collection is within its own: the names of mappings, and how many entries a list has.
        path = [
            len(each) if isinstance(each, list) else name if isinstance(name, str) else _NO_NAME
            for each, name, *_ in self._around[1:]
        ]
        key = (*path, name)
        first = self._document.line(key)
        line = event.start_mark.line + 1
        problem = f"stands twice, first in line {first}"
        self._document.faults.append(
            Fault(str(self._document.path), line, dotted(key), problem, "Remove one of the two.")
        )
        return _TWICE

    def _alias(self, event: Any) -> tuple[Any, str | None]:
        if event.anchor not in self._anchors:
            problem = f"found undefined alias {event.anchor!r}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        known = self._anchors[event.anchor]
        if known is None:
            raise RecursionError
        value, count, text = known
        self._count += count
        if self._count > self._most:
            raise _wrong("aliases make far too many values of it", event)
        return value, text


def _scalar(event: Any) -> Any:
    tag, text = event.tag, event.value
    if tag is None or tag == "!":
        resolvers = _RESOLVERS.get(text[:1]) if event.implicit[0] else None
        tag = _STR
        if resolvers:
            for known, pattern in resolvers:
                if pattern.match(text):
                    tag = known
                    break
    if tag in (_STR, _TIMESTAMP):
        return _text(text, event)  # a date is text to us
    return _construct(yaml.ScalarNode(tag, text, event.start_mark, event.end_mark))


def _construct(node: yaml.ScalarNode) -> Any:
    try:
        construct = _CONSTRUCTORS.get(node.tag)
        value = construct(node) if construct else yaml.SafeLoader("").construct_object(node, deep=True)
    except (ValueError, LookupError, OverflowError):  # what PyYAML lets through of "!!bool x" and the like
        raise _wrong(f"“{node.value}” is no {node.tag.rpartition(':')[2]}", node) from None
    if isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
        raise _wrong("the number is too large", node)
    return _text(value, node) if isinstance(value, str) else value


def _text(text: str, where: Any) -> str:
    """Text that can be sent, written to a log and be a path: escapes ("\\0", "\\ud800") make other text, too."""
    if not text.isprintable() and _NOT_IN_TEXT.search(text):  # a NUL or half a character is not printable
        raise _wrong(_NO_TEXT, where)
    return text


def _wrong(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)
