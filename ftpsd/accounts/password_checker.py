"""Check passwords: the checker of twisted.cred, which asks the user store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from ftpsd.accounts.fair_queue import FairSemaphore
from ftpsd.accounts.user_store import UnknownUser, User, UserStore, WrongPassword
from ftpsd.protocol.parsing import Address, network


class LoginCredentials(UsernamePassword):  # type: ignore[misc]
    """A user name, a password, and the address of the client that sent them.

    `admit` raises a Refusal if the client was banned or has gone since.
    """

    def __init__(self, user: bytes, password: bytes, client: Address, admit: Callable[[], Awaitable[None]]) -> None:
        super().__init__(user, password)
        self.client = client
        self.admit = admit


@implementer(ICredentialsChecker)
class PasswordChecker:
    """Ask the user store about passwords, `store.concurrency` of them at the same time.

    Waiting logins are served round-robin by client network. They are checked against the bans again before the store is
    asked, so that no password of a banned client is hashed.
    """

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, store: UserStore) -> None:
        self._store = store
        self._turns = FairSemaphore(store.concurrency)

    def requestAvatarId(self, credentials: LoginCredentials) -> Deferred[User]:
        """Return the user, which is the avatar ID: the realm needs the settings that belong to this very answer.

        Raises UnauthorizedLogin for an unknown name and for a wrong password, which clients must not tell apart, and
        SourceFailed.
        """
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: LoginCredentials) -> User:
        name, password = _text(credentials.username), _text(credentials.password)
        await self._turns.acquire(network(credentials.client))
        try:
            await credentials.admit()
            return await self._store.verify(name, password, credentials.client)
        except (UnknownUser, WrongPassword):
            raise UnauthorizedLogin from None
        finally:
            self._turns.release()


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
