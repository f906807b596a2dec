"""Find the line of a key in a YAML file.

PyYAML's node tree takes ten times as long to build as the plain values, so it is built only when there is a fault.
"""

from __future__ import annotations

import yaml

from ftpsd.config.faults import Key

#: libyaml if PyYAML was built with it: it parses ten times as fast. Its composer and PyYAML's constructors are slow.
Loader: type[yaml.CSafeLoader] | type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: Stands for a key that is not a scalar.
UNNAMED = "?"


class LineFinder:
    """The lines of all keys of a YAML file."""

    def __init__(self, data: bytes) -> None:
        self._entries: dict[yaml.Node, dict[str | int, tuple[int, yaml.Node]]] = {}
        self._last_line = last_line(data)
        self._root: yaml.Node | None
        try:
            self._root = yaml.compose(data, Loader=Loader)
        except (yaml.YAMLError, RecursionError):
            self._root = None

    def line(self, key: Key) -> int:
        """Return the line of a key, or of its nearest parent in the file; 0 if the file has no value."""
        node = self._root
        line = _line(node) if node is not None else 0
        for part in key:
            if node is None or part not in self._entries_of(node):
                break
            line, node = self._entries_of(node)[part]
        return min(line, self._last_line)

    def _entries_of(self, node: yaml.Node) -> dict[str | int, tuple[int, yaml.Node]]:
        """Return the line and the value of each key or index of a node."""
        found = self._entries.get(node)
        if found is None:
            found = self._entries[node] = {}
            if isinstance(node, yaml.MappingNode):
                for name, value in node.value:
                    text = str(name.value) if isinstance(name, yaml.ScalarNode) else UNNAMED
                    found.setdefault(text, (_line(name), value))
            elif isinstance(node, yaml.SequenceNode):
                found.update({index: (_line(each), each) for index, each in enumerate(node.value)})
        return found


def last_line(data: bytes) -> int:
    """Return the number of the last line. libyaml places the end of a file below it, even if it has no line end."""
    return data.count(b"\n") + data.count(b"\r") + 1


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark is not None else 0
