"""Check passwords: the checker of twisted.cred, which asks the user store."""

from __future__ import annotations

from collections.abc import Callable

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.internet.defer import Deferred
from zope.interface import implementer

from ftpsd.accounts.certificate_checker import CertificatePolicy, LoginIncorrect
from ftpsd.accounts.chain.store import InvalidAnswer
from ftpsd.accounts.one_time import totp
from ftpsd.accounts.one_time.totp import Codes
from ftpsd.accounts.user_store import (
    Admit,
    CannotLookUp,
    LoginDenied,
    UnknownUser,
    User,
    UserStore,
    WrongPassword,
)
from ftpsd.protocol.addresses import Address
from ftpsd.system.tls.client_certificates import ClientCertificate


class LoginCredentials(UsernamePassword):  # type: ignore[misc]
    """A user name, a password, the address of the client that sent them, and what is called when it is its turn.

    `certificate` is what the client has shown in its TLS handshake.
    """

    def __init__(
        self,
        user: bytes,
        password: bytes,
        client: Address,
        admit: Admit,
        certificate: ClientCertificate | None = None,
    ) -> None:
        super().__init__(user, password)
        self.client = client
        self.admit = admit
        self.certificate = certificate


@implementer(ICredentialsChecker)
class PasswordChecker:
    """Ask the user store about passwords, and check one-time passwords."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(
        self,
        store: UserStore,
        codes: Codes,
        now: Callable[[], float],
        certificates: CertificatePolicy | None = None,
    ) -> None:
        self._store = store
        self._codes = codes
        self._now = now
        self._certificates = certificates

    def requestAvatarId(self, credentials: LoginCredentials) -> Deferred[User]:
        """Return the user, which is the avatar ID: the realm needs the settings that belong to this very answer.

        Raises LoginIncorrect for an unknown name and for a wrong password, which clients must not tell apart; and
        LoginDenied and SourceFailed.
        """
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: LoginCredentials) -> User:
        name, password = _text(credentials.username), _text(credentials.password)
        try:
            if self._certificates is None:
                return await self._verify(name, password, credentials)
            may_log_in = await self._certificates.rule(credentials.certificate, credentials.client, credentials.admit)
            user = await self._verify(name, password, credentials)
            if not may_log_in(user):
                raise _rejected(user)
            return user
        except UnknownUser:
            raise LoginIncorrect(name) from None
        except WrongPassword as error:
            raise LoginIncorrect(error.name or name) from None

    async def _verify(self, name: str, password: str, credentials: LoginCredentials) -> User:
        """Return the user if password and code are right.

        The password is verified whatever the code is, and the store remembers no password of a user with a secret: the
        time shows neither which of the two was wrong, nor that a code was used before.
        """
        secret, step = None, None
        parts = totp.split(password)
        if parts is not None:
            secret = await self._secret(name, credentials)
            step = totp.matching_step(secret, parts[1], self._now())
            password = password if secret is None else parts[0]
        user = await self._store.verify(name, password, credentials.client, credentials.admit, parts is not None)
        if user.settings.totp != secret:  # no code was sent, or the user has changed meanwhile
            raise _rejected(user)
        if secret is not None and (step is None or not await self._codes.use_when_free(user.name, step)):
            raise _rejected(user)
        return user

    async def _secret(self, name: str, credentials: LoginCredentials) -> str | None:
        """Return the secret of a user's one-time passwords; None if there is none.

        Raises SourceFailed: a source that fails now and answers `verify` must not take the code for a part of a wrong
        password.
        """
        try:
            user = await self._store.find(name, credentials.client, credentials.admit, before_verify=True)
        except (UnknownUser, LoginDenied, CannotLookUp, InvalidAnswer):
            return None  # `verify` reports it, or has no user with a secret
        return user.settings.totp


def _rejected(user: User) -> Exception:
    """Return what to raise for a right password and a wrong code or certificate: the same as for a wrong password."""
    return WrongPassword(user.name) if user.reject is None else user.reject()


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
