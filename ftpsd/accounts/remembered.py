"""Passwords that were right recently, so that the next login needs no password hash: RememberedPasswords."""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import NamedTuple

from ftpsd.system.reactor import Clock, DelayedCall

#: The most passwords that are remembered, one for each user. A new one then replaces the oldest.
MOST = 10_000

#: Returns the stored hash of a user who may log in, or None.
CurrentHash = Callable[[str], str | None]


class Claim(NamedTuple):
    """A password that a client sent for a user, and the hash that the source stores for this user."""

    source: str
    name: str
    hashed: str
    password: str


class _Remembered(NamedTuple):
    hashed: str
    digest: bytes
    #: When it is forgotten, by the clock of `RememberedPasswords`.
    expires: float


class RememberedPasswords:
    """The last right password of each user, for `seconds` after it was verified. For the reactor thread only.

    A password is kept as a BLAKE2b digest with a random key that this process alone has. The digest covers the source,
    the user and the stored hash: none of them can change without making it useless.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._key = os.urandom(32)
        #: Is compared for users without a remembered password, so that they take as long.
        self._no_digest = os.urandom(32)
        self._seconds = 0
        #: By source and name. The first one expires first.
        self._entries: dict[tuple[str, str], _Remembered] = {}
        self._current: dict[str, CurrentHash] = {}
        self._expiry: DelayedCall | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def use(self, seconds: int) -> None:
        """Remember passwords for `seconds` from now on. A shorter time holds for those that are remembered, too."""
        is_shorter, self._seconds = seconds < self._seconds, seconds
        if not is_shorter:  # to go through 10,000 entries at each reload would stop the sessions for 10 ms
            return
        latest = self._clock.seconds() + seconds
        self._entries = {
            key: entry._replace(expires=min(entry.expires, latest)) for key, entry in self._entries.items()
        }
        self._expire()

    def follow(self, source: str, current: CurrentHash) -> None:
        """Forget passwords of a source that has changed, except those whose stored hash is still the `current` one.

        From now on only claims with the current hash are remembered. A session that began before the change has the
        old hash, and must not bring it back.
        """
        self._current[source] = current
        gone = [key for key, entry in self._entries.items() if key[0] == source and current(key[1]) != entry.hashed]
        for key in gone:
            del self._entries[key]

    def forget(self, source: str, name: str) -> None:
        """Forget the password of a user."""
        self._entries.pop((source, name), None)

    def matches(self, claim: Claim) -> bool:
        """Return whether the claim's password is the remembered one. Takes equally long for every user and name."""
        entry = self._entries.get((claim.source, claim.name))
        equal = hmac.compare_digest(self._digest(claim), entry.digest if entry is not None else self._no_digest)
        return equal and entry is not None and entry.expires > self._clock.seconds() and self._is_current(claim)

    def remember(self, claim: Claim) -> None:
        """Remember a password that was verified against the stored hash, in place of an older one of this user."""
        if not self._seconds or not self._is_current(claim):
            return
        key = (claim.source, claim.name)
        self._entries.pop(key, None)
        if len(self._entries) >= MOST:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = _Remembered(claim.hashed, self._digest(claim), self._clock.seconds() + self._seconds)
        if self._expiry is None:
            self._expire()

    def _expire(self) -> None:
        """Remove what has expired now, and again when the next one expires."""
        if self._expiry is not None and self._expiry.active():
            self._expiry.cancel()
        self._expiry = None
        now = self._clock.seconds()
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.expires > now:
                self._expiry = self._clock.callLater(entry.expires - now, self._expire)
                return
            del self._entries[key]

    def _is_current(self, claim: Claim) -> bool:
        current = self._current.get(claim.source)
        return current is None or current(claim.name) == claim.hashed

    def _digest(self, claim: Claim) -> bytes:
        return keyed_digest(self._key, claim)


def keyed_digest(key: bytes, texts: Iterable[str]) -> bytes:
    """Return a BLAKE2b digest of texts, among them a password, that is of no use without the key."""
    digest = blake2b(key=key, digest_size=32)
    for text in texts:
        data = text.encode("utf-8", "surrogateescape")
        digest.update(len(data).to_bytes(8, "big"))  # "ab" and "c" must differ from "a" and "bc"
        digest.update(data)
    return digest.digest()
