"""Logins by certificate: the checker of twisted.cred for them, and what certificates mean for other logins."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from ftpsd.accounts.one_time import totp
from ftpsd.accounts.one_time.totp import Codes
from ftpsd.accounts.user_store import Admit, LoginDenied, UnknownUser, User, UserStore
from ftpsd.config.sections.tls import ClientCertificateSettings
from ftpsd.protocol.addresses import Address
from ftpsd.system.tls.client_certificates import ClientCertificate

#: The most names of one certificate that are looked up. No authority needs more.
_MOST_NAMES = 8


class ICertificate(ICredentials):  # type: ignore[misc]
    """A user name, and a certificate that was verified."""


@frozen
@implementer(ICertificate)
class CertificateCredentials:
    """A user name and a certificate that was verified; `client` is the address of the client.

    `code` is the one-time password, if the client has sent one.
    """

    name: str
    certificate: ClientCertificate
    client: Address
    admit: Admit
    code: str | None = None


class LoginIncorrect(UnauthorizedLogin):  # type: ignore[misc]
    """A wrong name or password, or a certificate that is not the user's.

    Failures are counted for `user`: a source may know one user by several spellings.
    """

    def __init__(self, user: str) -> None:
        super().__init__()
        self.user = user


class CodeRequired(LoginFailed):  # type: ignore[misc]
    """The certificate is the user's, who needs a one-time password, too."""


@implementer(ICredentialsChecker)
class CertificateChecker:
    """Ask the user store about the user to whom a certificate must belong."""

    credentialInterfaces = (ICertificate,)

    def __init__(self, store: UserStore, codes: Codes, now: Callable[[], float]) -> None:
        self._store = store
        self._codes = codes
        self._now = now

    def requestAvatarId(self, credentials: CertificateCredentials) -> Deferred[User]:
        """Return the user, which is the avatar ID.

        Raises LoginIncorrect for an unknown name and for the certificate of another user, which clients must not
        tell apart; CodeRequired; and LoginDenied and SourceFailed.
        """
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: CertificateCredentials) -> User:
        await credentials.admit()
        try:
            user = await self._store.find(credentials.name, credentials.client, credentials.admit)
        except UnknownUser:
            raise LoginIncorrect(credentials.name) from None
        except LoginDenied:
            # Nobody knows whether it is that of the user: it has no name, or names another spelling.
            if not credentials.certificate.names_exactly(credentials.name):
                raise LoginIncorrect(credentials.name) from None
            raise
        if not belongs(credentials.certificate, user):
            raise LoginIncorrect(user.name)
        if user.settings.totp is not None:
            if credentials.code is None:
                raise CodeRequired
            step = totp.matching_step(user.settings.totp, credentials.code, self._now())
            if step is None or not await self._codes.use_when_free(user.name, step):
                raise LoginIncorrect(user.name)
        return user


def belongs(certificate: ClientCertificate, user: User) -> bool:
    """Return whether a certificate is that of a user."""
    return certificate.is_for(user.name, user.settings.certificates)


class CertificatePolicy:
    """What a certificate means for a login with a password."""

    def __init__(self, store: UserStore, settings: ClientCertificateSettings) -> None:
        self._store = store
        self._login = settings.login
        self._mode = settings.mode

    async def rule(
        self, certificate: ClientCertificate | None, client: Address, admit: Admit
    ) -> Callable[[User], bool]:
        """Return a function that says whether a user with the right password may log in with this certificate.

        With `login: both` it must be the user's. With `login: password` it must not be another user's if clients need
        one; it may be that of a machine, which names no user. Whose a certificate is that is mapped by its fingerprint
        only its user tells, so that must be the user who logs in. Raises SourceFailed.
        """
        if self._login == "certificate" or (self._login == "password" and self._mode == "optional"):
            return lambda _: True
        if certificate is None:
            return lambda _: False
        # Looked up before the password is verified: afterwards the time would tell that it was right.
        either = self._login == "both" or certificate.source == "fingerprint"
        if either or await self._names_user(certificate, client, admit):
            return lambda user: belongs(certificate, user)
        return lambda user: not user.settings.certificates or belongs(certificate, user)

    async def _names_user(self, certificate: ClientCertificate, client: Address, admit: Admit) -> bool:
        for name in certificate.names[:_MOST_NAMES]:
            try:
                await self._store.find(name, client, admit)
            except UnknownUser:
                continue
            except LoginDenied:  # there is such a user
                pass
            return True
        return False
