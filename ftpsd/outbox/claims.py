"""The changes of one session that rules want: each is claimed before it is made, and decided afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

from ftpsd.events.record import CHANGES, record, to_json, upload_record
from ftpsd.events.types import FileChanged, SessionInfo
from ftpsd.outbox.evidence import Home, Lost, Undecidable, home_at, moved, was_made
from ftpsd.outbox.journal import Journal
from ftpsd.outbox.rules import Rules
from ftpsd.outbox.segments import Entry, intent_line
from ftpsd.protocol.interfaces import Change
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import Parts

#: The events whose changes are claimed. All others are written when they have happened.
CLAIMED = frozenset({"upload", "delete", "rename"})

_UNCLAIMED = nullcontext()

#: Writes a change that was made to the disk, before its event can be delivered.
Settle = Callable[[], None]


def _nothing() -> None:
    """Write nothing: the change is durable when it is made."""


class Evidence(NamedTuple):
    """What is known of an upload that is about to get its name."""

    #: See `evidence.was_made`.
    proof: Entry
    #: The bytes that were received, and those of the whole file.
    received: int
    size: int


class SessionJournal:
    """What one session writes into the journal. The methods are called in worker threads.

    `parts` are the names of a path from the home on, after links were followed.
    """

    def __init__(self, journal: Journal, rules: Rules, session: SessionInfo, home: str) -> None:
        self.journal = journal
        self.session = session
        self._rules = rules
        self._path = home
        self._home: Home | None = None

    @property
    def home(self) -> Home:
        """The user's home, which is looked up once.

        No cached_property: before Python 3.12 all sessions would wait for the one whose disk does not answer.
        """
        if self._home is None:
            self._home = home_at(self._path)
        return self._home

    def _absolute(self, parts: Parts) -> str:
        return "/".join((self._path, *parts))

    def upload(self, path: VirtualPath, parts: Parts, append: bool, offset: int) -> UploadClaim | None:
        """Return the claim of an upload that begins, or None if no rule wants it."""
        shown = str(path)
        if not self._rules.wants("upload", self.session.user, shown):
            return None
        return UploadClaim(self, shown, self._absolute(parts), append, offset)

    def removal(
        self, path: VirtualPath, parts: Parts, inode: Callable[[], int], settle: Settle
    ) -> AbstractContextManager[None]:
        """Claim that the body removes a file. `inode` is called only if a rule wants the event."""
        return self.removing(path, lambda: moved(self.home, inode(), self._absolute(parts), None), settle)

    def removing(
        self, path: VirtualPath, evidence: Callable[[], Entry], settle: Settle = _nothing
    ) -> AbstractContextManager[None]:
        """Claim that the body removes a file. `evidence` is called only if a rule wants the event."""
        if not self._rules.wants("delete", self.session.user, str(path)):
            return _UNCLAIMED
        return self._change("deleted", path, None, evidence(), settle)

    def rename(
        self,
        path: VirtualPath,
        new_path: VirtualPath,
        parts: Parts,
        new_parts: Parts | None,
        inode: Callable[[], int],
        settle: Settle,
    ) -> AbstractContextManager[None]:
        """Claim that the body renames. `inode` is called only if a rule wants the event.

        Without `new_parts` the file leaves the home: then only its old name shows whether that was done.
        """
        new = None if new_parts is None else self._absolute(new_parts)
        return self.renaming(path, new_path, lambda: moved(self.home, inode(), self._absolute(parts), new), settle)

    def renaming(
        self, path: VirtualPath, new_path: VirtualPath, evidence: Callable[[], Entry], settle: Settle = _nothing
    ) -> AbstractContextManager[None]:
        """Claim that the body renames. `evidence` is called only if a rule wants the event."""
        if not self._rules.wants("rename", self.session.user, str(path), str(new_path)):
            return _UNCLAIMED
        return self._change("renamed", path, new_path, evidence(), settle)

    @contextmanager
    def _change(
        self, change: Change, path: VirtualPath, new_path: VirtualPath | None, evidence: Entry, settle: Settle
    ) -> Iterator[None]:
        journal, identity = self.journal, self.journal.identity()
        event = FileChanged(self.session, change, str(path), None if new_path is None else str(new_path))
        paths = [str(path)] if new_path is None else [str(path), str(new_path)]
        made_record = record(event, time.time(), identity)
        assert made_record is not None
        text = to_json(made_record)
        shown = [made_record[name] for name in ("path", "new_path") if name in made_record]
        journal.add_intent(identity, intent_line(identity, text, evidence, None if shown == paths else paths))
        made = True
        try:
            yield
            settle()
        except BaseException:
            made = self._was_made(evidence)
            raise
        finally:
            if made:
                journal.ids.put(self.session.number, CHANGES[change], "\0".join(paths), identity, text)
            journal.decide(identity, made)

    def _was_made(self, evidence: Entry) -> bool:
        """Return whether a change was made, although an error followed."""
        try:
            return was_made(evidence, self.journal.in_store)
        except (Undecidable, Lost):
            return False


class UploadClaim:
    """The claim of one upload.

    claimed  from the creation on
    intent   the file is about to get its name: after `intend`
    decided  after `decide`
    """

    __slots__ = ("_append", "_offset", "_path", "_record", "_session", "_since", "file", "identity")

    def __init__(self, session: SessionJournal, path: str, file: str, append: bool, offset: int) -> None:
        self._session = session
        self._path = path
        #: The absolute path of the file.
        self.file = file
        self._append = append
        self._offset = offset
        self._since = time.monotonic()
        #: The identity of the intent while it is not decided, otherwise empty.
        self.identity = self._record = ""

    @property
    def home(self) -> Home:
        """The user's home."""
        return self._session.home

    def intend(self, evidence: Evidence) -> None:
        """Write that the upload is complete and about to be published. Raises Refusal: then it must not be."""
        journal = self._session.journal
        identity = journal.identity()
        path, seconds = self._path, time.monotonic() - self._since
        made = upload_record(
            self._session.session, path, evidence.received, seconds, self._offset, self._append, identity
        )
        text = to_json(made)
        sized = f'{text[:-1]}, "size": {evidence.size}}}'
        paths = None if made["path"] == path else [path]
        journal.add_intent(identity, intent_line(identity, sized, evidence.proof, paths))
        self.identity, self._record = identity, text

    def decide(self, made: bool) -> bool:
        """Write whether the upload got its name, unless that is decided. Return False if that could not be written."""
        identity, self.identity = self.identity, ""
        if not identity:
            return True
        journal, session = self._session.journal, self._session.session
        if made:
            journal.ids.put(session.number, "upload", self._path, identity, self._record)
        return journal.decide(identity, made)
