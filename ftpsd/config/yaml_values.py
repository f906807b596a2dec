"""Build plain values from the events of a YAML parser, without recursion and without a node for each scalar.

PyYAML's own constructors take ten times as long, and do not report duplicate keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import yaml

from ftpsd.config.faults import Key
from ftpsd.config.sections.values import Value
from ftpsd.config.yaml_lines import UNNAMED, Loader

#: The most values of a file for each of its bytes: a few lines with aliases of aliases can stand for billions.
_MOST_VALUES = 10

#: The deepest nesting of collections.
_DEEPEST = 100

_STR, _TIMESTAMP = "tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp"

#: Patterns of plain scalars that are not strings, by their first characters.
_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = yaml.SafeLoader.yaml_implicit_resolvers

_LOADER = yaml.SafeLoader("")
_CONSTRUCTORS: dict[str, Callable[[yaml.ScalarNode], Value]] = {
    f"tag:yaml.org,2002:{name}": getattr(_LOADER, f"construct_yaml_{name}") for name in ("null", "bool", "int", "float")
}

#: Characters that no string may have, and the fault.
_NOT_IN_TEXT = re.compile("[\0\ud800-\udfff]")
BAD_CHARACTER = "a string contains a NUL or half of a surrogate pair"

#: No setting needs a larger number, and Python refuses to print one of some thousand digits.
_LARGEST_NUMBER = 2**63 - 1


class _NotText:
    """A key whose value is dropped: it is a duplicate, or a collection (`IS_KEY`) that will become a key itself."""


_DUPLICATE: Final = _NotText()
_IS_KEY: Final = _NotText()


class _Level:
    """A collection that is being built."""

    __slots__ = ("anchor", "before", "key", "value")

    def __init__(self, value: list[Value] | dict[str, Value], anchor: str | None, before: int) -> None:
        self.value = value
        #: Of a mapping: the key of the next value; None if a key comes next.
        self.key: str | _NotText | None = None
        self.anchor = anchor
        #: The number of values that had been built when this collection began.
        self.before = before


class ValueBuilder:
    """Builds the value of one file. `on_duplicate` is called with each duplicate key and its line."""

    def __init__(self, data: bytes, on_duplicate: Callable[[Key, int], None]) -> None:
        self._loader = Loader(data)
        self._on_duplicate = on_duplicate
        self._most = _MOST_VALUES * len(data)
        self._count = 0
        #: By anchor: the value, the number of values in it, and its text if it is a scalar; None while it is built.
        self._anchors: dict[str, tuple[Value, int, str | None] | None] = {}
        self._top: list[Value] = []
        #: The collections around the current value, the outermost first.
        self._levels = [_Level(self._top, None, 0)]

    def build(self) -> Value:
        """Return the value of the only document; None if there is none. Raises yaml.YAMLError or RecursionError."""
        self._next()  # the start of the stream
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        while self._take(self._next()):
            pass
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise _error("but found another document", event)
        return self._top[0]

    def _next(self) -> yaml.Event:
        event = self._loader.get_event()
        assert event is not None
        return event

    def _take(self, event: yaml.Event) -> bool:
        """Take one event; return False at the end of the document."""
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._begin(event)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        else:
            return False
        return True

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        level = self._levels[-1]
        is_key = level.key is None and type(level.value) is dict
        if event.anchor is not None:
            self._check_anchor(event.anchor, event)
            self._anchors[event.anchor] = (_scalar_value(event), 1, event.value)
        if is_key:
            self._put_key(_text(event.value, event), event)
        else:
            self._count += 1
            self._put(_scalar_value(event))

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        if len(self._levels) > _DEEPEST:
            raise RecursionError
        level = self._levels[-1]
        if level.key is None and type(level.value) is dict:
            level.key = _IS_KEY
        if event.anchor is not None:
            self._check_anchor(event.anchor, event)
            self._anchors[event.anchor] = None
        value: list[Value] | dict[str, Value] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._levels.append(_Level(value, event.anchor, self._count))

    def _end(self, event: yaml.CollectionEndEvent) -> None:
        level = self._levels.pop()
        self._count += 1
        if level.anchor is not None:
            self._anchors[level.anchor] = (level.value, self._count - level.before, None)
        if self._levels[-1].key is _IS_KEY:
            self._put_key(UNNAMED, event)
        else:
            self._put(level.value)

    def _alias(self, event: yaml.AliasEvent) -> None:
        anchor = event.anchor or ""
        if anchor not in self._anchors:
            raise _error(f"found undefined alias {anchor!r}", event)
        known = self._anchors[anchor]
        if known is None:
            raise RecursionError
        value, count, text = known
        self._count += count
        if self._count > self._most:
            raise _error("aliases expand to far too many values", event)
        level = self._levels[-1]
        if level.key is None and type(level.value) is dict:
            self._put_key(UNNAMED if text is None else text, event)
        else:
            self._put(value)

    def _put(self, value: Value) -> None:
        level = self._levels[-1]
        collection = level.value
        if isinstance(collection, list):
            collection.append(value)
            return
        if isinstance(level.key, str):
            collection[level.key] = value
        level.key = None

    def _put_key(self, name: str, event: yaml.Event) -> None:
        level = self._levels[-1]
        if name not in level.value:
            level.key = name
            return
        level.key = _DUPLICATE
        path = [
            len(each.value) if isinstance(each.value, list) else each.key if isinstance(each.key, str) else UNNAMED
            for each in self._levels[1:-1]
        ]
        self._on_duplicate((*path, name), _line(event))

    def _check_anchor(self, anchor: str, event: yaml.Event) -> None:
        if anchor in self._anchors:  # PyYAML's composer, which finds the lines, refuses such a file, too
            raise _error("found duplicate anchor", event)


def _scalar_value(event: yaml.ScalarEvent) -> Value:
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
        return _text(text, event)  # dates are strings in our files
    return _construct(tag, event)


def _construct(tag: str, event: yaml.ScalarEvent) -> Value:
    node = yaml.ScalarNode(tag, event.value)
    try:
        construct = _CONSTRUCTORS.get(tag)
        value: Value = construct(node) if construct else yaml.SafeLoader("").construct_object(node, deep=True)
    except (ValueError, LookupError, OverflowError):  # what PyYAML raises for "!!bool x" and the like
        raise _error(f"“{event.value}” is not a valid {tag.rpartition(':')[2]}", event) from None
    except yaml.MarkedYAMLError as error:  # a tag of a mapping, or an unknown one; the node has no line
        raise _error(str(error.problem), event) from None
    if isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
        raise _error("the number is too large", event)
    return _text(value, event) if isinstance(value, str) else value


def _text(text: str, event: yaml.Event) -> str:
    """Return a string that can be sent, written to a log and used as a path. Escapes (`\\0`) can make others."""
    if not text.isprintable() and _NOT_IN_TEXT.search(text):  # a NUL or half of a surrogate pair is not printable
        raise _error(BAD_CHARACTER, event)
    return text


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 0


def _error(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]
