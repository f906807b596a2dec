"""What a client's certificate means when its user is named (USER): CertificateLogin."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from ftpsd.accounts.certificate_checker import CodeRequired
from ftpsd.accounts.one_time import totp
from ftpsd.config.sections.tls import ClientCertificateSettings
from ftpsd.control.login import Connection, Login
from ftpsd.protocol.interfaces import Account
from ftpsd.protocol.replies import Refusal, WrongCertificate
from ftpsd.system.tls.client_certificates import ClientCertificate


class CertificateLogin:
    """Decides at USER whether the client's certificate is needed, is enough, or is wrong.

        settings                   no certificate       the user's        another one
        optional, password         password             password          password
        required, password         refused              password          password; refused at PASS if another user's,
                                                                          and if it lacks a fingerprint that decides
        optional, certificate      password             logged in         password
        required, certificate      refused              logged in         refused
        either, both               refused              password          refused, now or at PASS

    A missing certificate is refused here and not in the handshake: clients show the text of this reply, but an alert
    as an error of their TLS library. A certificate that cannot be verified does end the handshake.
    """

    def __init__(self, connection: Connection, login: Login, settings: ClientCertificateSettings) -> None:
        self._connection = connection
        self._login = login
        self._kind = settings.login
        self._required = settings.mode == "required"
        #: The user whose certificate is enough together with a one-time password, which PASS brings.
        self._needs_code: str | None = None
        #: A name that was looked up, whose user the certificate does not belong to, while its password has not come.
        self._undecided: str | None = None

    async def identify(self, user: str, count: Callable[[], None]) -> Account | None:
        """Return the account if the certificate is enough, or None if the client must send the password.

        `count` is called for each failed login that is counted and has no refusal.

        Raises Refusal without a certificate, WrongCertificate for another user's, and what `Login.attempt` raises.
        """
        self._needs_code = None
        if self._undecided is not None:
            count()
            await self._count_guess()
        self._login.require_current(user)
        certificate = self._candidate(user)
        return None if certificate is None else await self._log_in(user, certificate, count)

    def _candidate(self, user: str) -> ClientCertificate | None:
        """Return the certificate if it may be enough for this user; None if the password is needed."""
        needed = self._required or self._kind == "both"
        certificate = self._connection.certificate
        if certificate is None:
            if needed:
                self._login.refuse(user, Refusal(530, "Client certificate required: choose one in your FTP program."))
            return None
        if self._kind == "password":
            return None
        if not certificate.may_be_for(user):  # nothing is looked up, so nothing can be guessed
            if needed:
                self._login.refuse(user, WrongCertificate())
            return None
        return None if self._kind == "both" else certificate

    async def _log_in(self, user: str, certificate: ClientCertificate, count: Callable[[], None]) -> Account | None:
        """Look the user up, and log in if the certificate is the user's. Note what may have been a guess."""
        # The password may be right: a certificate that names the user in capitals is no failed login then. Without a
        # name in it, names could be tried until one has its fingerprint, so each counts. If no password follows, it was
        # a guess, too.
        decides = self._required or certificate.source == "fingerprint"
        try:
            account = await self._login.attempt_with_certificate(user, certificate, decides=decides)
        except CodeRequired:
            self._needs_code = user
            return None
        if account is None and self._required:
            raise WrongCertificate
        if account is None and decides:
            count()
        elif account is None and not certificate.names_exactly(user):  # no guess, if it stands in the certificate
            self._undecided = user
        return account

    async def _count_guess(self) -> None:
        """Count a name that was looked up as a failed login, unless its password has come, which counts itself."""
        name, self._undecided = self._undecided, None
        if name is not None:
            await self._login.count_failure(name)

    def ended(self) -> None:
        """The session has ended."""
        Deferred.fromCoroutine(self._count_guess()).addErrback(lambda failure: failure.trap(Refusal))

    async def attempt(self, user: str, password: str) -> Account | None:
        """Return the account, or None for a wrong password. After the user's certificate its last six digits count."""
        self._undecided = None
        certificate = self._connection.certificate
        if certificate is None or user != self._needs_code:
            return await self._login.attempt(user, password)
        _, code = totp.split(password) or ("", "")
        return await self._login.attempt_with_certificate(user, certificate, code)
