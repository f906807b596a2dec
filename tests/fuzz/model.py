"""What the tree of one user must be after any commands: a few dictionaries that know no disk and no protocol."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

Path = tuple[str, ...]


class Refused(Exception):
    """The command changes nothing, and its reply has this code."""

    def __init__(self, code: int = 550) -> None:
        super().__init__(code)
        self.code = code


@dataclass(eq=False)
class File:
    """A file; `modified` (POSIX seconds) and `mode` once a client has set them; how often it was changed."""

    data: bytes
    modified: int | None = None
    mode: int | None = None
    changes: int = 0

    def add(self, data: bytes) -> None:
        """Add to its content."""
        if data:
            self.data, self.modified, self.changes = self.data + data, None, self.changes + 1


@dataclass(eq=False)
class Directory:
    """A directory; `kept` has what is left of uploads that were cut, by the names that they were for; `outrun` those
    that were complete, but continued a file that was changed meanwhile, and whether they did by APPE."""

    entries: dict[str, File | Directory] = field(default_factory=dict)
    kept: dict[str, bytes] = field(default_factory=dict)
    outrun: dict[str, bool] = field(default_factory=dict)
    modified: int | None = None
    mode: int | None = None
    changes: int = 0
    #: Whether it is a folder: then it has a disk and a quota of its own. Not in a tree without folders.
    is_folder: bool = False
    #: Whether it only leads to folders, and is on no disk.
    is_virtual: bool = False

    def forget(self, name: str) -> None:
        """Nothing is left of an upload."""
        self.kept.pop(name, None)
        self.outrun.pop(name, None)

    def names(self) -> set[str]:
        """What a listing has."""
        return {*self.entries, *(name for name in self.kept if not self.outrun.get(name))}


@dataclass(eq=False)
class Upload:
    """One that runs. `before`: the file that it is to replace. `copy`: it begins with that. `first`: no other one held
    the name's part. `unique`: it replaces nothing."""

    directory: Directory
    name: str
    start: bytes
    first: bool
    before: File | None = None
    copy: bool = False
    append: bool = False
    changes: int = 0
    unique: bool = False


class Tree:
    """All that one user has."""

    def __init__(self) -> None:
        self.root = Directory()
        self.running: list[Upload] = []
        #: Folders, and the directories that lead to them: they stay where they are.
        self.fixed: set[Path] = set()

    def add_folder(self, path: Path) -> None:
        """Put a folder into the tree."""
        holder = self.root
        for depth, name in enumerate(path[:-1], 1):
            below = holder.entries.setdefault(name, Directory(is_virtual=True))
            assert isinstance(below, Directory)
            holder = below
            self.fixed.add(path[:depth])
        holder.entries[path[-1]] = Directory(is_folder=True)
        self.fixed.add(path)

    def mount(self, path: Path) -> Path:
        """The path of the folder around a path; that of the root for the home."""
        for depth in range(len(path), 0, -1):
            with suppress(Refused):
                node = self.find(path[:depth])
                if isinstance(node, Directory) and node.is_folder:
                    return path[:depth]
        return ()

    # --- what is there -----------------------------------------------------------------------------

    def walk(self, directory: Directory | None = None, path: Path = ()) -> Iterator[tuple[Path, File | Directory]]:
        """Everything below a directory, and itself."""
        directory = directory or self.root
        yield path, directory
        for name, node in directory.entries.items():
            if isinstance(node, Directory):
                yield from self.walk(node, (*path, name))
            else:
                yield (*path, name), node

    def find(self, path: Path) -> File | Directory:
        """What a path names."""
        node: File | Directory = self.root
        for name in path:
            if not isinstance(node, Directory) or name not in node.entries:
                raise Refused
            node = node.entries[name]
        return node

    def file(self, path: Path, otherwise: int = 550) -> File:
        """The file that a path names; `otherwise` is the code for a directory."""
        node = self.find(path)
        if isinstance(node, Directory):
            raise Refused(otherwise)
        return node

    def directory(self, path: Path, otherwise: int = 550) -> Directory:
        """The directory that a path names."""
        node = self.find(path)
        if isinstance(node, File):
            raise Refused(otherwise)
        return node

    def path_of(self, directory: Directory) -> Path | None:
        """Where a directory is now; None when it is gone."""
        return next((path for path, node in self.walk() if node is directory), None)

    def incomplete(self, path: Path) -> bytes | None:
        """What has arrived of an upload that was cut, if nothing else has its name."""
        try:
            holder = self.directory(path[:-1])
        except Refused:
            return None
        if not path or path[-1] in holder.entries or path[-1] not in holder.names():
            return None
        return holder.kept[path[-1]]

    def size(self, path: Path) -> int:
        """SIZE: of an upload that was cut, where there is no file."""
        data = self.incomplete(path)
        return len(self.file(path).data if data is None else data)

    def _place(self, path: Path) -> tuple[Directory, str]:
        if not path or path in self.fixed:
            raise Refused
        holder = self.directory(path[:-1])
        if holder.is_virtual:
            raise Refused
        return holder, path[-1]

    def changeable(self, path: Path) -> File | Directory:
        """What a path names, whose time or mode is to be changed."""
        if not path or path in self.fixed:
            raise Refused
        return self.find(path)

    # --- names -------------------------------------------------------------------------------------

    def make_directory(self, path: Path) -> None:
        """MKD."""
        holder, name = self._place(path)
        if name in holder.entries:
            raise Refused
        holder.entries[name] = Directory()

    def remove_directory(self, path: Path) -> None:
        """RMD."""
        holder, name = self._place(path)
        directory = self.directory(path)
        if directory.entries or self._uploads(directory):
            raise Refused
        del holder.entries[name]

    def remove_tree(self, path: Path) -> None:
        """RMDA."""
        holder, name = self._place(path)
        self.directory(path)
        del holder.entries[name]

    def remove(self, path: Path) -> None:
        """DELE: a file, and what is left of an upload of its name."""
        holder, name = self._place(path)
        if isinstance(holder.entries.get(name), Directory):
            raise Refused
        if name not in holder.entries and name not in holder.kept:
            raise Refused
        holder.entries.pop(name, None)
        holder.forget(name)

    def rename(self, old: Path, new: Path) -> None:
        """RNTO, with the rules of rename(2)."""
        if new in self.fixed and old not in self.fixed:
            raise Refused(553)
        source, old_name = self._place(old)
        target, new_name = self._place(new)
        node = self.find(old)
        if isinstance(node, Directory) and self.mount(old) != self.mount(new):
            raise Refused(553)
        if isinstance(node, Directory) and new != old and new[: len(old)] == old:
            raise Refused(553)
        there = target.entries.get(new_name)
        if there is node:
            return
        if there is not None and isinstance(there, Directory) != isinstance(node, Directory):
            raise Refused
        if isinstance(there, Directory) and (there.entries or there.kept or self._uploads(there)):
            raise Refused
        del source.entries[old_name]
        target.entries[new_name] = node
        target.forget(new_name)
        node.changes += 1

    # --- uploads -----------------------------------------------------------------------------------

    def _uploads(self, directory: Directory) -> list[Upload]:
        return [each for each in self.running if each.directory is directory]

    def _busy(self, directory: Directory, name: str) -> bool:
        return any(each.first and each.name == name for each in self._uploads(directory))

    def begin(self, path: Path, offset: int = 0, append: bool = False) -> Upload:
        """STOR or APPE, up to its 150."""
        holder, name = self._place(path)
        node = holder.entries.get(name)
        if isinstance(node, Directory):
            raise Refused
        busy = self._busy(holder, name)
        if (append or offset) and busy:
            raise Refused(450)
        kept = b"" if busy else holder.kept.get(name, b"")
        old = node.data if node is not None else None
        exact = not append and offset == len(kept)
        if name in holder.outrun and not exact and (holder.outrun[name] or (old is not None and not append)):
            kept = b""
        if old is not None and kept and (append or offset > len(kept)):
            raise Refused
        if append:
            offset = len(kept if old is None else old)
        copy = (append and old is not None) or offset > len(kept)
        if copy and (old is None or offset > len(old)):
            raise Refused(554)
        if not busy:
            holder.forget(name)
        start = (old if copy and old is not None else kept)[:offset]
        upload = Upload(holder, name, start, not busy, node, copy, append, node.changes if node is not None else 0)
        self.running.append(upload)
        return upload

    def begin_unique(self, directory: Path, name: str) -> Upload:
        """STOU, under the name that its 150 told."""
        holder = self.directory(directory)
        assert name not in holder.entries
        upload = Upload(holder, name, b"", True, unique=True)
        self.running.append(upload)
        return upload

    def finish(self, upload: Upload, data: bytes) -> None:
        """All of it has come: the file is there, or what has come is kept."""
        self.running.remove(upload)
        if self.path_of(upload.directory) is None:
            raise Refused
        old, before = upload.directory.entries.get(upload.name), upload.before
        if upload.unique and old is not None:
            raise Refused(553)
        if upload.copy and (old is not before or before is None or before.changes != upload.changes):
            raise self._outrun(upload, data)
        if upload.append and not upload.copy and old is not None:
            raise self._outrun(upload, data)
        if isinstance(old, Directory):
            raise Refused
        if upload.append and upload.copy and before and len(data) <= 4096 - len(before.data) % 4096:
            before.add(data)
            return
        upload.directory.entries[upload.name] = File(upload.start + data, mode=old.mode if old else None)
        upload.directory.forget(upload.name)

    def _outrun(self, upload: Upload, data: bytes) -> Refused:
        """What it continues was changed meanwhile: it is kept."""
        if upload.start + data:
            upload.directory.kept[upload.name] = upload.start + data
            upload.directory.outrun[upload.name] = upload.append and (upload.copy or not upload.start)
        return Refused(450)

    def cut(self, upload: Upload, data: bytes) -> None:
        """It ended too early, after so much of its data."""
        self.running.remove(upload)
        self._keep(upload, data)

    def _keep(self, upload: Upload, data: bytes) -> None:
        content, now = upload.start + data, upload.directory.entries.get(upload.name)
        copy_alone = upload.copy and (upload.append or not data)
        other = now is not None and now is not upload.before
        if content and not copy_alone and not other and not self._busy(upload.directory, upload.name):
            if upload.first:
                upload.directory.kept[upload.name] = content
            else:
                upload.directory.kept.setdefault(upload.name, content)
