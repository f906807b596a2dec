"""Check passwords: the checker of twisted.cred, which asks the user store."""

from __future__ import annotations

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from ftpsd.accounts.user_store import Admit, UnknownUser, User, UserStore, WrongPassword
from ftpsd.protocol.parsing import Address


class LoginCredentials(UsernamePassword):  # type: ignore[misc]
    """A user name, a password, the address of the client that sent them, and what is called when it is its turn."""

    def __init__(self, user: bytes, password: bytes, client: Address, admit: Admit) -> None:
        super().__init__(user, password)
        self.client = client
        self.admit = admit


@implementer(ICredentialsChecker)
class PasswordChecker:
    """Ask the user store about passwords."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, store: UserStore) -> None:
        self._store = store

    def requestAvatarId(self, credentials: LoginCredentials) -> Deferred[User]:
        """Return the user, which is the avatar ID: the realm needs the settings that belong to this very answer.

        Raises UnauthorizedLogin for an unknown name and for a wrong password, which clients must not tell apart; and
        LoginDenied and SourceFailed.
        """
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: LoginCredentials) -> User:
        name, password = _text(credentials.username), _text(credentials.password)
        try:
            return await self._store.verify(name, password, credentials.client, credentials.admit)
        except (UnknownUser, WrongPassword):
            raise UnauthorizedLogin from None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
