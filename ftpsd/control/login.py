"""The login of one session: Login."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn, Protocol

from twisted.cred.error import UnauthorizedLogin

from ftpsd.accounts.certificate_checker import CertificateCredentials, CodeRequired, LoginIncorrect
from ftpsd.accounts.password_checker import LoginCredentials
from ftpsd.accounts.realm import AccessDenied, IUserAvatar, UserAvatar, Visitor
from ftpsd.accounts.user_store import LoginDenied
from ftpsd.control.scheduler import ClientGroup, Scheduler, Task
from ftpsd.control.timeouts import SessionTimeouts
from ftpsd.events.session_events import SessionEvents
from ftpsd.events.types import Banned, LoginCheckFailed, LoginFailed, LoginRefused
from ftpsd.limits.bans.ban_table import Ban
from ftpsd.protocol.addresses import Address, network, site
from ftpsd.protocol.interfaces import Account
from ftpsd.protocol.replies import Refusal, SessionEnd
from ftpsd.snapshot import ConfigurationChanged, Snapshot
from ftpsd.system.tls.client_certificates import ClientCertificate


class Connection(Protocol):
    """What a login has to know of its control connection."""

    client: Address
    #: Whether the session has ended.
    ended: bool

    @property
    def certificate(self) -> ClientCertificate | None:
        """The verified certificate of the client."""


def strangers_group(scheduler: Scheduler, snapshot: Snapshot, client: Address) -> ClientGroup:
    """Return the group of a client that has not logged in: that of its network."""
    rate = snapshot.settings.limits.commands_per_second_before_login
    return scheduler.strangers(network(client), rate)


class Login:
    """Logs a client in and out: bans, password, account; then the scheduler, the timer and the log know the user."""

    def __init__(
        self,
        connection: Connection,
        snapshot: Snapshot,
        scheduler: Scheduler,
        task: Task,
        timeouts: SessionTimeouts,
        events: SessionEvents,
    ) -> None:
        self._connection = connection
        self._client = connection.client
        self._snapshot = snapshot
        self._ledger = snapshot.ledger
        self._scheduler = scheduler
        self._task = task
        self._timeouts = timeouts
        self._events = events

    async def attempt(self, user: str, password: str) -> Account | None:
        """Return the account, or None for a wrong name or password. Raises what `_log_in` raises."""
        check = partial(self._check_again, user)
        certificate = self._connection.certificate
        return await self._log_in(
            user, LoginCredentials(_bytes(user), _bytes(password), self._client, check, certificate)
        )

    async def attempt_with_certificate(
        self, user: str, certificate: ClientCertificate, code: str | None = None, *, decides: bool = True
    ) -> Account | None:
        """Return the account, or None if the certificate is not that of a user with this name.

        That is no failed login unless the certificate `decides`: the password may be right. Raises CodeRequired if the
        user needs a one-time password (`code`) as well, and what `_log_in` raises.
        """
        check = partial(self._check_again, user)
        credentials = CertificateCredentials(user, certificate, self._client, check, code)
        return await self._log_in(user, credentials, decides)

    async def count_failure(self, user: str) -> None:
        """Count a failed login without a password. Raises Refusal if the client is banned now."""
        await self._fail(user, UnauthorizedLogin())

    async def _log_in(self, user: str, credentials: object, decides: bool = True) -> Account | None:
        """Return the account, or None for wrong credentials, which are a failed login if they decide.

        Raises Refusal: 530 for a banned client or a user who may not log in now, 421 for one session too many and for a
        configuration that has changed, 451 when the password cannot be checked. Only a wrong name or password counts
        towards a ban. Bans are checked before and after the password: a client may have sent many passwords at the same
        time.
        """
        try:
            await self._ledger.check_bans(self._client, user)
        except Refusal:
            self._events.login_banned()
            raise
        try:
            avatar, logout = await self._open_avatar(credentials)
        except CodeRequired:
            raise
        except Exception as error:
            if decides or not isinstance(error, UnauthorizedLogin):
                await self._fail(user, error)
            return None
        user = avatar.name
        try:
            await self._check_again(user)
            if not avatar.is_anonymous:  # their addresses would displace those of users
                await self._ledger.record_login(self._client, user)
            self._require_connection()
        except BaseException:
            logout()
            raise
        self._task.move(self._scheduler.user(user))
        certificate = self._connection.certificate
        shown = () if certificate is None else (certificate.subject, certificate.fingerprint)
        self._events.logged_in(user, avatar.lease.rates, *shown)
        tls = self._snapshot.settings.tls
        data_session = avatar.data_session or tls.data_session
        close_notify = avatar.close_notify or tls.close_notify
        return Account(
            user, avatar.permissions, avatar.files, data_session, close_notify, avatar.lease, logout, avatar.names
        )

    def forget(self) -> None:
        """The user has logged out: the client is a stranger again."""
        if not self._connection.ended:
            self._events.logged_out()
            self._timeouts.wait_for_login()
            self._task.move(strangers_group(self._scheduler, self._snapshot, self._client))

    async def _open_avatar(self, credentials: Any) -> tuple[UserAvatar, Callable[[], None]]:
        """Return the user's avatar and its logout if the credentials are right.

        The users are those of the newest load: if a reload ends while the password is checked, it is checked again.
        """
        avatar: Any
        visitor = Visitor(self._client, self._events.session)
        while True:
            portal = self._snapshot.portal()
            try:
                _, avatar, logout = await portal.login(credentials, visitor, IUserAvatar)
            except Exception:
                if self._snapshot.is_newest(portal):
                    raise
                continue
            if self._snapshot.is_newest(portal):
                return avatar, logout
            logout()

    async def _fail(self, user: str, error: Exception) -> None:
        """Log why a login failed, and raise its Refusal. Return if only the name or the password is wrong."""
        if isinstance(error, LoginIncorrect):
            user = error.user
        session = self._events.session
        reason, refusal = "", Refusal(451, "Login cannot be checked now: try again later.")
        if isinstance(error, UnauthorizedLogin):
            self._events.publish(LoginFailed(session, self._events.visible_name(user)))
            failure = await self._ledger.record_failure(self._client, user)
            self._log_bans(failure.bans, user)
            if failure.refusal is not None:
                raise failure.refusal
            return
        if isinstance(error, AccessDenied | LoginDenied):
            await self._ledger.check_bans(self._client, user)
            reason, refusal = error.denial.reason, Refusal(530, error.denial.text)
        elif isinstance(error, Refusal):  # one session too many, or a disk that does not respond
            await self._check_again(user)
            reason, refusal = _reason(error), error
        else:
            self._events.publish(LoginCheckFailed(session, str(error)))
            raise refusal from None
        self._refused(user, reason, refusal)
        raise refusal from None

    async def _check_again(self, user: str) -> None:
        """Raise Refusal if the client has gone, or was banned while its password waited or was checked."""
        self._require_connection()
        await self._ledger.check_bans(self._client, user)

    def _require_connection(self) -> None:
        """Raise Refusal if the client has gone: nobody would log it out."""
        if self._connection.ended:
            raise Refusal(421, "Session has ended.")

    def require_current(self, user: str) -> None:
        """End the session if more than the users of the configuration has changed since it began."""
        try:
            self._snapshot.portal()
        except ConfigurationChanged as refusal:
            self._refused(user, _reason(refusal), refusal)
            raise

    def refuse(self, user: str, refusal: Refusal) -> NoReturn:
        """Log that a client's certificate permits no login, and raise the Refusal."""
        self._refused(user, "certificate", refusal)
        raise refusal

    def _refused(self, user: str, reason: str, refusal: Refusal) -> None:
        name = self._events.visible_name(user)
        self._events.publish(LoginRefused(self._events.session, name, reason, refusal.reply.text))

    def _log_bans(self, bans: Sequence[Ban], user: str) -> None:
        for ban in bans:
            strangers = "strangers" if ban.kind == "user" else f"strangers from {site(self._client)}"
            whom = "banned" if ban.kind == "address" else f"{strangers} may not log in as {user}"
            text = f"{whom} for {ban.length:.0f} seconds: too many failed logins"
            self._events.publish(Banned(self._events.session, ban.kind, ban.subject, ban.length, text))


def _reason(refusal: Refusal) -> str:
    """Return why a login is refused that is no matter of the user."""
    if isinstance(refusal, ConfigurationChanged):
        return "configuration"
    return "limit" if isinstance(refusal, SessionEnd) else "disk"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
