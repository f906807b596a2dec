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
        self._logins: OrderedDict[str, _Login] = OrderedDict()
        self._seconds = 0

    def use(self, seconds: int, places: Collection[object]) -> None:
        """Remember logins for `seconds`, and forget those of other places than these."""
        self._seconds = seconds
        for name in [name for name, login in self._logins.items() if login.place not in places]:
            del self._logins[name]

    def remember(self, name: str, password: str, place: object, answer: Answer | None) -> None:
        """Remember that a place has confirmed a login."""
        if self._seconds:
            self._logins[name] = _Login(place, answer, self._digest(name, password), self._now())
            self._logins.move_to_end(name)
            if len(self._logins) > MOST:
                self._logins.popitem(last=False)

    def forget(self, name: str, password: str | None = None) -> None:
        """Forget the login of a name; with a password only if it is the remembered one."""
        login = self._logins.get(name)
        if login is not None and (password is None or hmac.compare_digest(login.digest, self._digest(name, password))):
            del self._logins[name]

    def last(self, name: str) -> tuple[object | None, Answer | None]:
        """Return where the user of a name was found by the last login, and the answer; twice None without a login."""
        login = self._logins.get(name)
        return (login.place, login.answer) if login is not None and self._is_recent(login) else (None, None)

    def admits(self, name: str, password: str, network: Hashable) -> bool:
        """Return whether the password is that of the last login, and the network has any guess left."""
        login = self._logins.get(name)
        if login is None or not self._is_recent(login) or login.guesses[network] >= GUESSES:
            return False
        if hmac.compare_digest(login.digest, self._digest(name, password)):
            return True
        if network in login.guesses or len(login.guesses) < GUESSERS:
            login.guesses[network] += 1
        else:
            del self._logins[name]
        return False

    def names(self) -> list[str]:
        """Return the names of all users of sources who are remembered, in the order of their logins."""
        return [name for name, login in self._logins.items() if login.answer is not None and self._is_recent(login)]

    def count(self, place: object) -> int:
        """Return how many logins of a place are remembered."""
        return sum(login.place is place and self._is_recent(login) for login in self._logins.values())

    def __contains__(self, name: str) -> bool:
        return self.last(name)[0] is not None

    def _is_recent(self, login: _Login) -> bool:
        return login.time > self._now() - self._seconds

    def _digest(self, name: str, password: str) -> bytes:
        digest = blake2b(key=self._key, digest_size=32)
        for text in (name, password):
            data = text.encode("utf-8", "surrogateescape")
            digest.update(len(data).to_bytes(8, "big"))  # "ab" and "c" must differ from "a" and "bc"
            digest.update(data)
        return digest.digest()
