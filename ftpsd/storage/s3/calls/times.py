"""When the content of listed objects was changed: `Times`. A listing of S3 has no metadata, so each object is asked."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from threading import Condition, Lock

from ftpsd.storage.s3.calls.client import Listed, Objects
from ftpsd.storage.s3.calls.tasks import DEADLINE, Submit, not_answering

#: For how many objects the answer is remembered, and how many are asked at a time.
_REMEMBERED, _PARALLEL = 20_000, 8


class Times:
    """Asks each object once: with other metadata it would have another time in the listing. For any thread.

    `most` are the objects of a directory that are asked.
    """

    def __init__(self, objects: Objects, most: int) -> None:
        self.most = most
        self._objects = objects
        self._lock = Lock()
        self._known: OrderedDict[Listed, float] = OrderedDict()

    def of(self, listed: Sequence[Listed], submit: Submit) -> Sequence[float]:
        """Return the times of objects; those when they were stored if there are too many. Blocks."""
        if len(listed) > self.most:
            return [each.stored for each in listed]
        with self._lock:
            found = {each: self._known[each] for each in listed if each in self._known}
        missing = [each for each in listed if each not in found]
        if missing:
            found.update(_Questions(self._objects, missing).answers(submit))
            with self._lock:
                for each in listed:
                    self._known[each] = found[each]
                    self._known.move_to_end(each)
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
        return [found[each] for each in listed]


class _Questions:
    """Questions about some objects, which the caller and other threads of the store ask.

    The caller asks, too: so it needs no other thread, and callers that have all threads do not wait for each other.
    """

    def __init__(self, objects: Objects, listed: Sequence[Listed]) -> None:
        self._objects = objects
        self._left = deque(listed)
        self._found: dict[Listed, float] = {}
        self._count = len(listed)
        self._failed: BaseException | None = None
        self._changed = Condition()

    def answers(self, submit: Submit) -> dict[Listed, float]:
        for _ in range(min(_PARALLEL, self._count) - 1):
            submit(self._ask)
        self._ask()
        with self._changed:
            if not self._changed.wait_for(lambda: self._failed or len(self._found) == self._count, DEADLINE):
                raise not_answering()
            if self._failed is not None:
                raise self._failed
            return self._found

    def _ask(self) -> None:
        while self._failed is None:
            try:
                listed = self._left.popleft()
            except IndexError:
                return
            try:
                found = self._objects.head(listed.key)
            except BaseException as error:
                self._failed = error
            with self._changed:
                if self._failed is None:
                    self._found[listed] = listed.stored if found is None else found.modified
                self._changed.notify_all()
