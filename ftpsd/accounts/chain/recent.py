"""Logins that are remembered in case their source goes down: RecentLogins."""

from __future__ import annotations

import hmac
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Hashable
from typing import NamedTuple

from attrs import Factory, define

from ftpsd.accounts.remembered import keyed_digest
from ftpsd.accounts.sources.source import Answer

#: The most logins that are remembered. A new one then replaces the oldest.
MOST = 10_000

#: The most names by which one user is found. A new one then replaces the oldest.
MOST_NAMES = 8

#: How many wrong passwords a network may send for a remembered login, and how many networks may do so.
GUESSES, GUESSERS = 10, 20


#: The place where a user was found, and the canonical name.
_Key = tuple[object, str]


#: The key of the digests. Worker processes inherit it.
_SECRET = os.urandom(32)


class Remembered(NamedTuple):
    """A login that a place has confirmed, and the digest of its password. YAML files have no answer."""

    place: object
    answer: Answer | None
    digest: bytes


@define
class _Login:
    """The last login of a user. `names` are those that clients have sent, the oldest first."""

    answer: Answer | None
    digest: bytes
    time: float
    names: list[str]
    #: Wrong passwords by client network, while the source was down.
    guesses: Counter[Hashable] = Factory(Counter)


class RecentLogins:
    """The last login of each user, for `seconds`. For the reactor thread.

    Logins are found by the names that clients send: only the source knows which of them are one user. A password is
    kept as a BLAKE2b digest with a random key that the processes of this daemon alone have.

    While a source is down, nothing counts towards a ban: the new password of a user may be right. So each network has a
    few guesses only.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        #: Gets each login that is remembered, and the name of each that is forgotten (None), for other processes.
        self.changed: Callable[[str, Remembered | None], object] = lambda name, login: None
        #: The oldest one comes first.
        self._logins: OrderedDict[_Key, _Login] = OrderedDict()
        self._keys: dict[str, _Key] = {}
        #: How many logins there are of each place.
        self._counts: Counter[object] = Counter()
        self._seconds = 0

    def use(self, seconds: int, places: Collection[object]) -> None:
        """Remember logins for `seconds`, and forget those of other places than these."""
        self._seconds = seconds
        for key in [key for key in self._logins if key[0] not in places]:
            self._remove(key)

    def remember(self, name: str, password: str, place: object, answer: Answer | None) -> None:
        """Remember a login that a source, or the YAML files, has confirmed."""
        key = (place, answer.name if answer is not None else name)
        login = Remembered(place, answer, _digest(key, password))
        self.take(name, login)
        self.changed(name, login)

    def take(self, name: str, login: Remembered | None) -> None:
        """Remember what another process has remembered, or forget what it has forgotten (None)."""
        self._expire()
        if login is None:
            if name in self._keys:
                self._remove(self._keys[name])
            return
        self._forget_name(name)
        place, answer = login.place, login.answer
        key = (place, answer.name if answer is not None else name)
        names = self._remove(key) if key in self._logins else []
        if self._seconds:
            names = [*names, name][-MOST_NAMES:]
            self._logins[key] = _Login(answer, login.digest, self._now(), names)
            self._keys.update(dict.fromkeys(names, key))
            self._counts[place] += 1
        if len(self._logins) > MOST:
            self._remove(next(iter(self._logins)))

    def forget(self, name: str, password: str | None = None) -> None:
        """Forget the login of a user; with a password only if it is the remembered one."""
        self._expire()
        key = self._keys.get(name)
        if key is not None and (
            password is None or hmac.compare_digest(self._logins[key].digest, _digest(key, password))
        ):
            self._remove(key)
            self.changed(name, None)

    def all(self) -> list[tuple[str, Remembered]]:
        """Return all logins with their last names, the oldest first."""
        self._expire()
        logins = self._logins.items()
        return [(login.names[-1], Remembered(key[0], login.answer, login.digest)) for key, login in logins]

    def forget_users(self, place: object, users: Collection[str]) -> None:
        """Forget the logins of users of a place, by their canonical names."""
        for key in [(place, user) for user in users]:
            if key in self._logins:
                self._remove(key)

    def last(self, name: str) -> tuple[object | None, Answer | None]:
        """Return where the user of a name was found by the last login, and the answer; twice None without a login."""
        self._expire()
        key = self._keys.get(name)
        return (key[0], self._logins[key].answer) if key is not None else (None, None)

    def admits(self, name: str, password: str | None, network: Hashable) -> bool:
        """Return whether the password is that of the last login, and the network has any guess left.

        None: what was sent with the right password, as a one-time password, was wrong. That is a guess, too.
        """
        self._expire()
        key = self._keys.get(name)
        if key is None or self._logins[key].guesses[network] >= GUESSES:
            return False
        if password is not None and hmac.compare_digest(self._logins[key].digest, _digest(key, password)):
            return True
        guesses = self._logins[key].guesses
        guesses[network] += 1
        if len(guesses) > GUESSERS:
            self._remove(key)
        return False

    def names(self) -> list[str]:
        """Return the names of all users of sources who are remembered, as last sent, in the order of their logins."""
        self._expire()
        return [login.names[-1] for login in self._logins.values() if login.answer is not None]

    def count(self, place: object) -> int:
        """Return how many logins of a place are remembered."""
        self._expire()
        return self._counts[place]

    def __contains__(self, name: str) -> bool:
        self._expire()
        return name in self._keys

    def _expire(self) -> None:
        oldest = self._now() - self._seconds
        while self._logins and next(iter(self._logins.values())).time <= oldest:
            self._remove(next(iter(self._logins)))

    def _forget_name(self, name: str) -> None:
        """Forget which user has a name."""
        key = self._keys.get(name)
        if key is None:
            return
        if self._logins[key].names == [name]:
            self._remove(key)
        else:
            self._logins[key].names.remove(name)
            del self._keys[name]

    def _remove(self, key: _Key) -> list[str]:
        """Forget a login, and return the names of its user."""
        names = self._logins.pop(key).names
        for name in names:
            del self._keys[name]
        self._counts[key[0]] -= 1
        return names


def _digest(key: _Key, password: str) -> bytes:
    return keyed_digest(_SECRET, (key[1], password))
