"""Anonymous logins: a user store around another one, which lets everybody in under two names."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ftpsd.accounts.hash_verifier import HashVerifier
from ftpsd.accounts.user_store import LOCAL, Admit, Homes, UnknownUser, User, UserStore, always
from ftpsd.config.sections.anonymous import AnonymousSettings
from ftpsd.config.sections.groups import SharedLimits
from ftpsd.config.settings import UserLimits, UserSettings
from ftpsd.limits.user_limits import Share
from ftpsd.protocol.addresses import Address, network
from ftpsd.protocol.permissions import PROFILES

#: The names of anonymous users. Sessions have the first one, which RFC 1635 recommends.
NAMES = ("anonymous", "ftp")


def anonymous_user(settings: AnonymousSettings, home: str) -> User:
    """Return the anonymous user; `home` is the place of the home, a path without symbolic links."""
    limits = settings.limits
    user = UserSettings(
        home=home,
        permissions=PROFILES["upload-only" if settings.permissions == "drop-box" else "read-only"],
        quota=settings.quota,
        limits=UserLimits(limits.sessions, limits.transfers, limits.upload_rate, limits.download_rate),
    )
    return User(NAMES[0], user, settings)


def address_share(settings: AnonymousSettings, client: Address) -> Share:
    """Return the limits that all anonymous sessions from the network of a client share."""
    limits = settings.limits
    shared = SharedLimits(
        limits.sessions_per_address,
        limits.transfers_per_address,
        limits.upload_rate_per_address,
        limits.download_rate_per_address,
    )
    return Share("network", network(client), shared)


class AnonymousStore:
    """Accepts any password for the anonymous names, and asks another store about all other names."""

    def __init__(self, store: UserStore, user: User) -> None:
        self._store = store
        self._user = user

    @property
    def homes(self) -> Homes:
        """The homes of the other store, which has that of the anonymous user, too."""
        return self._store.homes

    def start(self, verifier: HashVerifier) -> None:
        """Prepare the other store."""
        self._store.start(verifier)

    def knows(self, name: str) -> bool:
        """Return whether the log may show a name."""
        return name in NAMES or self._store.knows(name)

    async def find(self, name: str, peer: Address = LOCAL, admit: Admit = always, before_verify: bool = False) -> User:
        """Return a user (see `UserStore`)."""
        if name in NAMES:
            return self._user
        return _with_other_name(await self._store.find(name, peer, admit, before_verify))

    async def verify(self, name: str, password: str, peer: Address, admit: Admit, after_find: bool = False) -> User:
        """Return the user if the password is right: any password of an anonymous user is."""
        if name not in NAMES:
            return _with_other_name(await self._store.verify(name, password, peer, admit, after_find))
        await admit()
        return self._user

    async def recall(self, name: str) -> User:
        """Return a user of the other store: nobody administers the anonymous user as an account."""
        return await self._store.recall(name)

    def names(self) -> AsyncIterator[str]:
        """Iterate over the names of the other store."""
        return self._store.names()


def _with_other_name(user: User) -> User:
    """Return a user. Raises UnknownUser if a source that ignores case has found one under an anonymous name."""
    if user.name in NAMES:
        raise UnknownUser
    return user


def with_anonymous(store: UserStore, user: User | None) -> UserStore:
    """Return a store with the anonymous user, if there is one."""
    return store if user is None else AnonymousStore(store, user)
