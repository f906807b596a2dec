"""What a session knows of the client at the other end of its control connection (`session.Control`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from OpenSSL import SSL
from twisted.cred.error import LoginFailed, UnhandledCredentials

from ftpsd.accounts.password_checker import LoginCredentials
from ftpsd.accounts.realm import AccessDenied, IUserAvatar
from ftpsd.control.tls_layer import ControlConnection
from ftpsd.data.channel import accept_any, require_resumption
from ftpsd.events.log import SessionLog
from ftpsd.limits.bans.policy import Ban
from ftpsd.protocol.parsing import Address, plain_address, site
from ftpsd.protocol.replies import Refusal, Reply, SessionEnd
from ftpsd.protocol.session import Account
from ftpsd.snapshot import Generation


class Client:
    """The replies to a client, its TLS, its login."""

    def __init__(
        self,
        connection: ControlConnection,
        client: Address,
        implicit: bool,
        generation: Generation,
        log: SessionLog,
        set_idle: Callable[[int], None],
        forget_login: Callable[[], None],
        take_unread: Callable[[], bool],
    ) -> None:
        self.client = client
        here = connection.getHost()
        self.server = plain_address(here.host, getattr(here, "scopeID", 0))
        self.implicit = implicit
        self.gone = False
        self.now = generation.now
        self.set_idle = set_idle
        self.forget_login = forget_login
        self._take_unread = take_unread
        self._connection = connection
        self._contexts = generation.contexts
        self._context: SSL.Context | None = None
        self._portal = generation.portal
        self._bans = generation.bans
        self._tls = generation.settings.tls
        self._log = log
        self._steps: list[Callable[[], None]] = []

    # --- replies ---------------------------------------------------------------------------------

    def say(self, reply: Reply) -> None:
        """Sends a reply."""
        if not self.gone:
            self._connection.write(reply.encode())

    def then(self, step: Callable[[], None]) -> None:
        """What is to be done behind the final reply of the command that runs."""
        self._steps.append(step)

    def take_steps(self) -> None:
        """The final reply is sent."""
        steps, self._steps = self._steps, []
        for step in steps:
            if not self.gone:
                step()

    def close(self) -> None:
        """Ends the connection when all replies are sent."""
        self.gone = True
        self._connection.loseConnection()

    # --- TLS -------------------------------------------------------------------------------------

    @property
    def encrypted(self) -> bool:
        """Whether the control connection is."""
        return self._connection.encrypted

    @property
    def tls_name(self) -> str:
        """The host name that the client's TLS asked for."""
        return self._connection.server_name

    def start_tls(self) -> None:
        """Puts TLS on, with a context that this session has to itself."""
        if self._take_unread():
            # Whatever a man in the middle put behind AUTH would be obeyed inside TLS (CVE-2011-0411).
            self._log.note("injection", "plain text behind AUTH: the connection is cut")
            self.gone = True
            self._connection.abortConnection()
            return
        self._context = self._contexts()
        self._connection.start_tls(self._context)

    def stop_tls(self) -> None:
        """Takes TLS off; data connections keep the context for PROT P."""
        self._connection.stop_tls()

    def secure_data(self, account: Account | None) -> tuple[SSL.Context, Callable[[SSL.Connection], None]]:
        """What a data connection with PROT P needs."""
        if self._context is None:
            raise Refusal(503, "Send AUTH TLS first.")
        policy = account.data_session if account is not None else self._tls.data_session
        return self._context, require_resumption if policy == "require" else accept_any

    # --- login -----------------------------------------------------------------------------------

    async def login(self, user: str, password: str) -> Account | None:
        """The account; None for a wrong name or password; 530 with the reason for a user who may not come in
        here and now; 451 when the checker itself fails.

        Only a wrong name or password counts towards a ban, nothing that is refused for another reason.
        """
        name = self._log.name(user)
        self._bans.admit(self.client, user)
        admit = partial(self._await_more, user)
        credentials: Any = LoginCredentials(_bytes(user), _bytes(password), self.client, admit)
        try:
            avatar: Any
            _, avatar, logout = await self._portal.login(credentials, self.client, IUserAvatar)
        except UnhandledCredentials:
            raise
        except AccessDenied as denied:
            self._bans.admit(self.client, user)
            reason, text = denied.denial
            self._log.note("login_refused", f"login of {name} refused: {text}", name=name, reason=reason)
            raise Refusal(530, text) from None
        except LoginFailed:
            self._log.note("login_failed", f"login failed for {name}", name=name)
            self._note_bans(self._bans.failed(self.client, user), user)
            self._bans.admit(self.client, user)
            return None
        except Refusal as refusal:  # a session too many, or a disk that does not answer
            self._await_more(user)
            reason = "limit" if isinstance(refusal, SessionEnd) else "disk"
            self._log.note("login_refused", f"login of {name} refused: {refusal.reply.text}", name=name, reason=reason)
            raise
        except Exception as error:
            self._log.note("checker_failed", f"the login could not be checked: {error}")
            raise Refusal(451, "The login cannot be checked now. Try again later.") from None
        try:
            self._await_more(user)
        except Refusal:
            logout()
            raise
        self._bans.succeeded(self.client, user)
        self._log.user = user
        if avatar.share.rates:
            self._log.note("rates", f"limited to {avatar.share.rates}", rates=avatar.share.rates)
        data_session = avatar.data_session or self._tls.data_session
        close_notify = avatar.close_notify or self._tls.close_notify
        return Account(user, avatar.permissions, avatar.files, data_session, close_notify, avatar.share, logout)

    def _await_more(self, user: str) -> None:
        """Refuses who has gone or was banned meanwhile: many may have asked at once."""
        if self.gone:
            raise Refusal(421, "The session has ended.")
        self._bans.admit(self.client, user)

    def _note_bans(self, bans: list[Ban], user: str) -> None:
        for ban in bans:
            strangers = "strangers" if ban.kind == "user" else f"strangers from {site(self.client)}"
            whom = "banned" if ban.kind == "address" else f"{strangers} may not log in as {user}"
            text = f"{whom} for {ban.length:.0f} seconds: too many failed logins"
            self._log.note("banned", text, kind=ban.kind, subject=ban.subject, seconds=ban.length)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
