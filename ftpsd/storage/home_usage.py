"""Quotas: how many bytes and files the tree below a home holds, kept exact through every change.

What counts is what the disk holds at that moment, as with the quotas of a kernel: each plain file by its
size, and the parts of uploads, running and cut. So while a file is being replaced both count, and what is
written can never be more than the quota allows. A replacement needs no second file: none is to stay.
A directory counts as a file without bytes.

A tree is walked once; from then on each change adds the difference that it has made. There is one count of
a home, for all the sessions of all the users who have it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock, RLock

from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.python.failure import Failure

from ftpsd.config.settings import QuotaSettings
from ftpsd.events.log import log
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.local.part_files import PRIVATE, part_name
from ftpsd.storage.local.tree import Identity, directories, identity
from ftpsd.system.reactor import Clock
from ftpsd.system.worker_threads import JobSteps, Workers

#: Seconds after which a tree in which no session was is counted again, for what others have changed in it.
STALE = 3600

#: What holds where nobody has said anything.
_NO_LIMIT = QuotaSettings()


@dataclass(frozen=True, slots=True)
class Amount:
    """So many bytes in so many files and directories."""

    bytes: int = 0
    files: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.bytes + other.bytes, self.files + other.files)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.bytes - other.bytes, self.files - other.files)


class Count:
    """What one tree holds. Every method may be called in any thread, and blocks.

    `changing` is held while names change, which may take the disk a while; the numbers have a lock of
    their own, so that uploads do not wait for that.
    """

    def __init__(self, home: str) -> None:
        self.home = home
        self._names = RLock()
        self._numbers = Lock()
        self._amount = Amount()
        self._changes = 0
        #: Whether it is being counted for the first time.
        self.counting = False
        #: When it was counted.
        self.counted: float | None = None
        # Files that running uploads have charged, and give back or keep when they end.
        self._held: set[Identity] = set()

    @property
    def amount(self) -> Amount:
        """What the tree holds, with what running uploads have charged."""
        return self._amount

    def add(self, amount: Amount, limit: QuotaSettings = _NO_LIMIT) -> None:
        """Adds to the count; 552 if that is more than the limit."""
        with self._numbers:
            self._add(amount, limit)

    def _add(self, amount: Amount, limit: QuotaSettings) -> None:
        total = self._amount + amount
        if limit.bytes is not None and amount.bytes > 0 and total.bytes > limit.bytes:
            raise _used_up(limit.bytes, "bytes")
        if limit.files is not None and amount.files > 0 and total.files > limit.files:
            raise _used_up(limit.files, "files")
        self._amount = total

    @contextmanager
    def changing(self, *places: tuple[int, str]) -> Iterator[list[tuple[Amount, QuotaSettings]]]:
        """Counts what is done within to names, given with their directories, and to their parts.

        What is done to others must not be done within, and nothing that takes more than a few disk calls: the tree's
        other sessions wait in their threads. What is put on the list is charged at the end, in one step with the
        difference: nobody else gets room that it makes.
        """
        names = [*places, *((directory, part_name(name)) for directory, name in places)]
        charges: list[tuple[Amount, QuotaSettings]] = []
        with self._names:
            before = self._measure(names)
            try:
                yield charges
            finally:
                self._changes += 1
                difference = self._measure(names) - before
                with self._numbers:
                    self._amount += difference
                    for amount, limit in charges:
                        self._add(amount, limit)

    def hold(self, info: os.stat_result) -> None:
        """From now on an upload charges that file itself. To be called within `changing`."""
        self._held.add(identity(info))

    def release(self, info: os.stat_result) -> None:
        """The upload has ended. To be called within `changing`."""
        self._held.discard(identity(info))

    def count(self, clock: Callable[[], float]) -> JobSteps[bool]:
        """Walk the tree for the first time. Return whether there was one that was not counted yet.

        Raises OSError where it cannot be counted. Nobody changes names meanwhile: nobody is let in before, and sweeps
        wait (see `counting`).
        """
        self.counting = True
        try:
            while self.counted is None and not self._held and os.path.isdir(self.home):
                if (yield from self._walk(clock)):
                    return True
        finally:
            self.counting = False
        return False

    def recount(self, clock: Callable[[], float]) -> JobSteps[bool]:
        """Walk the tree again, and take what that finds, unless the tree is in use or is not there."""
        if self._held or not os.path.isdir(self.home):
            return False
        try:
            return (yield from self._walk(clock))
        except OSError:
            return False

    def _walk(self, clock: Callable[[], float]) -> JobSteps[bool]:
        """Return whether the tree was counted: nobody has changed it meanwhile."""
        with self._names:
            started, changes = clock(), self._changes
        size = number = 0
        for piece in directories(self.home):
            for name in piece.names:
                one = self._one(piece.descriptor, name)
                size, number = size + one.bytes, number + one.files
            number += len(piece.directories)
            yield
        with self._names, self._numbers:
            if self._held or self._changes != changes:
                return False
            # Here: whoever waited for it may have given up, and finds it the next time.
            self._amount, self.counted = Amount(size, number), started
        return True

    # --- what the disk says ------------------------------------------------------------------------

    def _measure(self, names: Iterable[tuple[int, str]]) -> Amount:
        return sum((self._one(directory, name) for directory, name in names), Amount())

    def _one(self, directory: int, name: str) -> Amount:
        """A plain file by each of its names, and a directory. An empty part is only the lock of an upload."""
        try:
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError:
            return Amount()
        if stat.S_ISDIR(info.st_mode):
            return Amount(0, 1)
        if not stat.S_ISREG(info.st_mode) or identity(info) in self._held:
            return Amount()
        if not info.st_size and name.startswith(PRIVATE):
            return Amount()
        return Amount(info.st_size, 1)


def _used_up(most: int, what: str) -> Refusal:
    return Refusal(552, f"The quota of {most} {what} is used up.")


@dataclass(frozen=True, slots=True)
class Quota:
    """One user's limit on the count of a tree."""

    count: Count
    limit: QuotaSettings

    def take(self, amount: Amount) -> None:
        """Charges; 552 for what is too much."""
        self.count.add(amount, self.limit)

    def left(self) -> int | None:
        """Bytes that may be added; None for any number."""
        return None if self.limit.bytes is None else max(0, self.limit.bytes - self.count.amount.bytes)

    def allows_a_file(self) -> bool:
        """Whether one more file or directory may be made."""
        return self.limit.files is None or self.count.amount.files < self.limit.files

    def require_a_file(self) -> None:
        """552 when no file or directory may be added."""
        if self.limit.files is not None and not self.allows_a_file():
            raise _used_up(self.limit.files, "files")

    def require_room(self) -> None:
        """552 when not a byte may be added."""
        if self.limit.bytes is not None and self.left() == 0:
            raise _used_up(self.limit.bytes, "bytes")


# --- who counts, and when ----------------------------------------------------------------------------


class Tree(Count):
    """A count, and the sessions that are in its tree. What is said here is for the reactor thread."""

    def __init__(self, home: str) -> None:
        super().__init__(home)
        self.turn = DeferredLock()
        self.sessions = 0

    def stale(self, now: float) -> bool:
        """Whether it is to be counted before the session that has just come goes on."""
        if self.counted is None:
            return True
        return self.sessions == 1 and not 0 <= now - self.counted < STALE

    def leave(self) -> None:
        """A session is over."""
        self.sessions -= 1


class Quotas:
    """The trees in which somebody has a quota."""

    def __init__(self, clock: Clock, workers: Workers) -> None:
        self._clock = clock
        self._workers = workers
        self._trees: dict[str, Tree] = {}
        self._counted: Set[str] = frozenset()
        self._homes: Set[str] = frozenset()

    def keep(self, counted: Set[str], homes: Set[str]) -> None:
        """Which of all homes are to be counted from now on. Their trees are made when they are needed."""
        self._trees = {home: tree for home, tree in self._trees.items() if home in counted}
        self._counted = counted
        self._homes = homes

    def _tree(self, home: str) -> Tree | None:
        return (self._trees.get(home) or self._trees.setdefault(home, Tree(home))) if home in self._counted else None

    @contextmanager
    def changing(self, path: str, directory: int, name: str) -> Iterator[None]:
        """Around a change of a name in a directory that is the daemon's own doing. In any thread; blocks.

        It is one of the innermost home, as if its user had made it: a home around that one is counted anew in time.
        Raises BlockingIOError while that home is counted for the first time.
        """
        while path not in self._homes and path != "/":
            path = os.path.dirname(path) or "/"
        tree = self._tree(path)
        if tree is not None and tree.counting:
            raise BlockingIOError(errno.EAGAIN, "it is being counted")
        with tree.changing((directory, name)) if tree is not None else nullcontext():
            yield

    def visit(self, home: str) -> Deferred[Tree] | None:
        """A session comes: the tree, counted; None when nobody has a quota there."""
        tree = self._tree(home)
        if tree is None:
            return None
        tree.sessions += 1

        def give_up(failure: Failure) -> Failure:
            tree.leave()
            return failure

        counted: Deferred[None] = tree.turn.run(self._refresh, tree)
        return counted.addCallback(lambda _: tree).addErrback(give_up)

    def _refresh(self, tree: Tree) -> Deferred[None]:
        if not tree.stale(self._clock.seconds()):
            return succeed(None)

        def done(found: bool) -> None:
            if found:
                size, files = tree.amount.bytes, tree.amount.files
                log.info("{home} holds {size} bytes in {files} files", home=tree.home, size=size, files=files)

        walk = tree.count if tree.counted is None else tree.recount
        queue = self._workers.queue(tree.home, "walk")
        return queue.run(walk(self._clock.seconds)).addCallback(done)
