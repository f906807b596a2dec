"""What a session knows of the client at the other end of its control connection (`session.Control`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import LoginFailed, UnhandledCredentials

from ftpsd.control import ControlConnection
from ftpsd.data import accept_any, require_resumption
from ftpsd.generation import Generation
from ftpsd.log import SessionLog
from ftpsd.replies import Refusal, Reply
from ftpsd.session import Account
from ftpsd.users import IHome
from ftpsd.wire import Address, plain_address


class Client:
    """The replies to a client, its TLS, its login."""

    def __init__(
        self,
        connection: ControlConnection,
        client: Address,
        implicit: bool,
        generation: Generation,
        clock: Any,
        log: SessionLog,
        set_idle: Callable[[int], None],
        forget_login: Callable[[], None],
        take_unread: Callable[[], bool],
    ) -> None:
        self.client = client
        self.server = plain_address(connection.getHost().host)
        self.implicit = implicit
        self.gone = False
        self.now = clock.seconds
        self.set_idle = set_idle
        self.forget_login = forget_login
        self._take_unread = take_unread
        self._connection = connection
        self._contexts = generation.contexts
        self._context: SSL.Context | None = None
        self._portal = generation.portal
        self._data_session = generation.settings.tls.data_session
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
        policy = account.data_session if account is not None else self._data_session
        return self._context, require_resumption if policy == "require" else accept_any

    # --- login -----------------------------------------------------------------------------------

    async def login(self, user: str, password: str) -> Account | None:
        """The account; None for a wrong name or password; 451 when the checker itself fails."""
        credentials: Any = UsernamePassword(_bytes(user), _bytes(password))
        try:
            avatar: Any
            _, avatar, logout = await self._portal.login(credentials, None, IHome)
        except UnhandledCredentials:
            raise
        except LoginFailed:
            self._log.note("login_failed", f"login failed for {user}", name=user)
            return None
        except Exception as error:
            self._log.note("checker_failed", f"the login could not be checked: {error}")
            raise Refusal(451, "The login cannot be checked now. Try again later.") from None
        if self.gone:
            logout()
            raise Refusal(421, "The session has ended.")
        self._log.user = user
        return Account(user, avatar.rights, avatar.files, avatar.data_session or self._data_session, logout)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
