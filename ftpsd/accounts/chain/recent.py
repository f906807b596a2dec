"""Logins that are remembered in case their source goes down: RecentLogins."""

from __future__ import annotations

import hmac
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Hashable
from hashlib import blake2b

from attrs import Factory, define

from ftpsd.accounts.sources.source import Answer

#: The most logins that are remembered. A new one then replaces the oldest.
MOST = 10_000

#: How many wrong passwords a network may send for a remembered login, and how many networks may do so.
GUESSES, GUESSERS = 10, 20


@define
class _Login:
    """The last login of a user. `place` is where the user was found."""

    place: object
    answer: Answer | None
    digest: bytes
    time: float
    #: Wrong passwords by client network, while the source was down.
    guesses: Counter[Hashable] = Factory(Counter)


class RecentLogins:
    """The last login of each user, by the name that the client sent, for `seconds`. For the reactor thread.

    A password is kept as a BLAKE2b digest with a random key that this process alone has.

    While a source is down, nothing counts towards a ban: the new password of a user may be right. So each network has a
    few guesses only.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._key = os.urandom(32)
        #: The oldest one comes first.
        self._logins: OrderedDict[str, _Login] = OrderedDict()
        #: How many logins there are of each place.
        self._counts: Counter[object] = Counter()
        self._seconds = 0

    def use(self, seconds: int, places: Collection[object]) -> None:
        """Remember logins for `seconds`, and forget those of other places than these."""
        self._seconds = seconds
        for name in [name for name, login in self._logins.items() if login.place not in places]:
            self._remove(name)

    def remember(self, name: str, password: str, place: object, answer: Answer | None) -> None:
        """Remember that a place has confirmed a login."""
        self._expire()
        if name in self._logins:
            self._remove(name)
        if self._seconds:
            self._logins[name] = _Login(place, answer, self._digest(name, password), self._now())
            self._counts[place] += 1
        if len(self._logins) > MOST:
            self._remove(next(iter(self._logins)))

    def forget(self, name: str, password: str | None = None) -> None:
        """Forget the login of a name; with a password only if it is the remembered one."""
        login = self._recent(name)
        if login is not None and (password is None or self._matches(login, name, password)):
            self._remove(name)

    def forget_users(self, place: object, users: Collection[str]) -> None:
        """Forget the logins of users of a place, by their canonical names."""
        gone = [
            name
            for name, login in self._logins.items()
            if login.place is place and login.answer is not None and login.answer.name in users
        ]
        for name in gone:
            self._remove(name)

    def last(self, name: str) -> tuple[object | None, Answer | None]:
        """Return where the user of a name was found by the last login, and the answer; twice None without a login."""
        login = self._recent(name)
        return (login.place, login.answer) if login is not None else (None, None)

    def admits(self, name: str, password: str, network: Hashable) -> bool:
        """Return whether the password is that of the last login, and the network has any guess left."""
        login = self._recent(name)
        if login is None or login.guesses[network] >= GUESSES:
            return False
        if self._matches(login, name, password):
            return True
        login.guesses[network] += 1
        if len(login.guesses) > GUESSERS:
            self._remove(name)
        return False

    def names(self) -> list[str]:
        """Return the names of all users of sources who are remembered, in the order of their logins."""
        self._expire()
        return [name for name, login in self._logins.items() if login.answer is not None]

    def count(self, place: object) -> int:
        """Return how many logins of a place are remembered."""
        self._expire()
        return self._counts[place]

    def __contains__(self, name: str) -> bool:
        return self._recent(name) is not None

    def _recent(self, name: str) -> _Login | None:
        self._expire()
        return self._logins.get(name)

    def _expire(self) -> None:
        oldest = self._now() - self._seconds
        while self._logins and next(iter(self._logins.values())).time <= oldest:
            self._remove(next(iter(self._logins)))

    def _remove(self, name: str) -> None:
        self._counts[self._logins.pop(name).place] -= 1

    def _matches(self, login: _Login, name: str, password: str) -> bool:
        return hmac.compare_digest(login.digest, self._digest(name, password))

    def _digest(self, name: str, password: str) -> bytes:
        digest = blake2b(key=self._key, digest_size=32)
        for text in (name, password):
            data = text.encode("utf-8", "surrogateescape")
            digest.update(len(data).to_bytes(8, "big"))  # "ab" and "c" must differ from "a" and "bc"
            digest.update(data)
        return digest.digest()
