"""When the content of listed objects was changed: `Times`. A listing of S3 has no metadata, so each object is asked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.calls.answers import Listed
from ftpsd.storage.s3.calls.client import Objects
from ftpsd.storage.s3.calls.tasks import Submit
from ftpsd.storage.s3.calls.together import together

#: For how many objects the answer is remembered.
_REMEMBERED = 20_000

#: After how many failures the others are not asked: the store permits no such request, or is overloaded.
_FAILURES = 16


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
        """Return the times of objects; those when they were stored if there are too many. Blocks.

        An object that the store does not tell about (400, 403, 503) has the time when it was stored, until next time.
        """
        if len(listed) > self.most:
            return [each.stored for each in listed]
        with self._lock:
            found = {each: self._known[each] for each in listed if each in self._known}
        missing = [each for each in listed if each not in found]
        if missing:
            failed = set[Listed]()

            def ask(each: Listed) -> None:
                found[each] = each.stored
                try:
                    now = self._objects.head(each.key) if len(failed) < _FAILURES else None
                except (Refusal, OSError):
                    now = None
                if now is None:
                    failed.add(each)
                else:
                    found[each] = now.modified

            for _ in together(submit, missing, ask):
                pass
            with self._lock:
                for each in listed:
                    if each not in failed:
                        self._known[each] = found[each]
                        self._known.move_to_end(each)
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
        return [found[each] for each in listed]
