"""Read a YAML file into plain values, and collect the faults in it."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ftpsd.config.faults import Fault, Key, dotted
from ftpsd.config.sections.values import Value
from ftpsd.config.yaml_lines import LineFinder, last_line
from ftpsd.config.yaml_values import BAD_CHARACTER, ValueBuilder
from ftpsd.system.landlock import RESTART, is_denied

#: Bytes that are decoded in one call.
_PIECE = 65536


@dataclass
class Document:
    """A file that was read: its value, and its faults. Lines are found only when there is a fault."""

    path: Path
    value: Value = None
    #: Lines of keys that are known without the line finder.
    lines: dict[Key, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    data: bytes = b""
    _finder: LineFinder | None = None

    def fault(self, key: Key, problem: str, remedy: str) -> None:
        """Add a fault at a key. The line is that of the key, or of its nearest parent in the file."""
        self.faults.append(Fault(str(self.path), self.line(key), dotted(key), problem, remedy))

    def line(self, key: Key) -> int:
        """Return the line of a key, or of its nearest parent in the file; 0 if there is none."""
        for length in range(len(key), -1, -1):
            if key[:length] in self.lines:
                return self.lines[key[:length]]
        if self._finder is None:
            self._finder = LineFinder(self.data)
        return self._finder.line(key)

    def unreadable(self, key: Key, path: Path, error: OSError) -> None:
        """Add the fault that a file cannot be read: this one, or one that a key of it names."""
        name = "" if path == self.path else f"{path} "
        reason = (error.strerror or str(error)).lower()
        remedy = RESTART if is_denied(path) else "Make it readable for the daemon, or name another file."
        self.fault(key, f"{name}cannot be read: {reason}", remedy)

    def duplicate(self, key: Key, line: int) -> None:
        """Add a fault for a key that appears for the second time, on this line."""
        problem = f"duplicate key, first defined in line {self.line(key)}"
        shown = min(line, last_line(self.data))
        self.faults.append(Fault(str(self.path), shown, dotted(key), problem, "Remove one of the two."))

    def unusable(self, problem: str, remedy: str, line: int = 0) -> None:
        """Add a fault of the file as a whole, whose keys have no lines."""
        self.lines = {(): line}
        self.fault((), problem, remedy)


def read(path: Path, data: bytes | None = None) -> Document:
    """Read a file, or take `data` for its content. A document whose value is None has a fault, or is empty."""
    document = Document(path)
    try:
        document.data = path.read_bytes() if data is None else data
    except OSError as error:
        document.unreadable((), path, error)
        return document
    position = _not_utf_8(document.data)
    if position is not None:
        document.unusable(f"the file is not UTF-8 (byte {position})", "Save it as UTF-8.")
        return document
    try:
        document.value = ValueBuilder(document.data, document.duplicate).build()
    except yaml.MarkedYAMLError as error:
        _not_yaml(document, error)
    except yaml.reader.ReaderError as error:
        line = document.data.count(b"\n", 0, error.position) + 1
        document.unusable(f"not valid YAML: {str(error).splitlines()[0]}", "Correct the line.", line)
    except RecursionError:
        _nested(document)
    return document


def _not_yaml(document: Document, error: yaml.MarkedYAMLError) -> None:
    problem = str(error.problem or error.context)
    if "maximum nesting depth" in problem:
        _nested(document)
        return
    if "invalid Unicode character escape" in problem:  # what libyaml says of "\ud800"
        problem = BAD_CHARACTER
    mark = error.problem_mark or error.context_mark
    line = min(mark.line + 1, last_line(document.data)) if mark else 0
    document.unusable(f"not valid YAML: {problem}", "Correct the line.", line)


def _nested(document: Document) -> None:
    document.unusable("the file is nested too deeply, or an alias contains itself", "Correct the file.")


def _not_utf_8(data: bytes) -> int | None:
    """Return the position of the first byte that is not UTF-8; None if there is none.

    The data is decoded in pieces: one call for a large file would stop the reactor thread.
    """
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
