"""A user store in memory, for tests: passwords in plain text, and a source that can be broken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from twisted.internet.defer import Deferred

from ftpsd.accounts.hash_verifier import HashVerifier
from ftpsd.accounts.user_store import LOCAL, Admit, Homes, SourceFailed, UnknownUser, User, WrongPassword, always
from ftpsd.config.settings import UserSettings
from ftpsd.protocol.addresses import Address


class MemoryUserStore:
    """Users as they are given.

    `failure` is why the source does not answer; None if it does. Passwords are checked when `delay` has fired.
    """

    def __init__(self, users: Mapping[str, UserSettings]) -> None:
        self.failure: str | None = None
        self.delay: Deferred[None] | None = None
        self._users = dict(users)

    @property
    def homes(self) -> Homes:
        """The homes of all users, each of which has none inside."""
        homes = frozenset(user.home for user in self._users.values() if user.home)
        counted = frozenset(user.home for user in self._users.values() if user.home and user.quota.bytes is not None)
        return Homes(homes, counted, sorted(homes))

    def start(self, verifier: HashVerifier) -> None:
        """Nothing blocks."""

    def knows(self, name: str) -> bool:
        """Return whether a user has this name."""
        return name in self._users

    async def find(self, name: str, peer: Address = LOCAL, admit: Admit = always, before_verify: bool = False) -> User:
        """Return a user."""
        self._require_source()
        if name not in self._users:
            raise UnknownUser
        return User(name, self._users[name])

    async def recall(self, name: str) -> User:
        """Return a user."""
        return await self.find(name)

    async def verify(self, name: str, password: str, peer: Address, admit: Admit, after_find: bool = False) -> User:
        """Return the user if the password is right."""
        await admit()
        if self.delay is not None:
            await self.delay
        user = await self.find(name)
        if password != user.settings.password:
            raise WrongPassword
        return user

    async def names(self) -> AsyncIterator[str]:
        """Iterate over all names."""
        self._require_source()
        for name in self._users:
            yield name

    def _require_source(self) -> None:
        if self.failure is not None:
            raise SourceFailed(self.failure)
