"""The uploads of this process that run, and how all processes know them: `Running`."""

from __future__ import annotations

import secrets
from collections.abc import Container, Hashable
from hashlib import blake2b
from threading import Lock
from time import time

#: A number for an upload, in place of device and inode: the form in which processes share what is charged.
Charge = tuple[int, int]

#: How many uploads of one key are told apart. If two get the same number, a quota counts one of them wrong for a while.
_NUMBERS = 16

#: For how many uploads that have ended this process remembers that.
_REMEMBERED = 10_000

#: Seconds after its last part in which an upload may run elsewhere. A part of a slow client takes longer: that upload
#: ends with 450 if another one to its name, or the sweeper, removes it.
_LATELY = 300.0


class Running:
    """The uploads to one bucket, of all its stores, also of those before a reload. For any thread; nothing blocks."""

    def __init__(self, bucket: str = "") -> None:
        self._bucket = bucket
        self._lock = Lock()
        #: The uploads of this process that run, by the identity of the multipart upload.
        self._running: dict[str, Charge] = {}
        #: When others have ended, as POSIX times. Another process may run one again, if the client resumed it there.
        self._ended: dict[str, float] = {}
        #: For each key, the upload of this process that began first: it alone can be resumed.
        self._first: dict[str, object] = {}

    def __contains__(self, identity: str) -> bool:
        """Return whether an upload runs in this process."""
        return identity in self._running

    def enter(self, key: str, upload: object) -> bool:
        """Note that an upload of this process begins. Return whether no other one to its key runs."""
        with self._lock:
            return self._first.setdefault(key, upload) is upload

    def leave(self, key: str, upload: object) -> None:
        """Note that it has ended."""
        with self._lock:
            if self._first.get(key) is upload:
                del self._first[key]

    def claim(self, identity: str, charge: Charge) -> None:
        """Note that an upload of this process has a multipart upload."""
        with self._lock:
            self._running[identity] = charge
            self._ended.pop(identity, None)

    def release(self, identity: str) -> None:
        """Note that it has ended."""
        with self._lock:
            if self._running.pop(identity, None) is None:
                return
            self._ended[identity] = time()
            if len(self._ended) > _REMEMBERED:
                del self._ended[next(iter(self._ended))]

    def end(self, key: str, identity: str, upload: object) -> None:
        """Note both: an upload of this process has ended, with its multipart upload, or none ("")."""
        self.release(identity)
        self.leave(key, upload)

    def has_ended(self, identity: str, modified: float) -> bool:
        """Return whether this process has ended an upload, whose last part came at a POSIX time, and nobody runs it."""
        ended = self._ended.get(identity)
        return ended is not None and modified <= ended + 1

    def may_run(self, identity: str, modified: float) -> bool:
        """Return whether an upload runs, or may run in another process: it got a part recently."""
        if identity in self._running:
            return True
        return not self.has_ended(identity, modified) and time() - modified < _LATELY

    # --- for quotas --------------------------------------------------------------------------------

    def new_charge(self, key: str) -> Charge:
        """Return a number for an upload that begins."""
        return self._charge(key, secrets.randbelow(_NUMBERS))

    def is_charged(self, key: str, identity: str, modified: float, charged: Container[Hashable]) -> bool:
        """Return whether the quota has the bytes of an open multipart upload already, charged by a running upload.

        The charges of other processes name the key, but not the multipart upload. So one that does not belong to this
        process counts as charged if any upload of its key is.
        """
        own = self._running.get(identity)
        if own is not None:
            return own in charged
        if self.has_ended(identity, modified):
            return False
        return any(self._charge(key, each) in charged for each in range(_NUMBERS))

    def _charge(self, key: str, number: int) -> Charge:
        digest = blake2b(f"{self._bucket}\0{key}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
        return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big") // _NUMBERS * _NUMBERS + number
