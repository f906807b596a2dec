"""What a session may do with its control connection: replies, TLS, login (`Control` in the package `protocol`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from OpenSSL import SSL

from ftpsd.control.incoming.route import Route
from ftpsd.control.tls.data_checks import accept_any, require_certificate, require_resumption
from ftpsd.control.tls.engine import TlsState
from ftpsd.control.tls_layer import ControlConnection
from ftpsd.data.handshakes import Check, Security
from ftpsd.events.session_events import SessionEvents
from ftpsd.events.types import PlainTextAfterAuth
from ftpsd.protocol.addresses import Address, plain_address
from ftpsd.protocol.encoding.names import UTF8, NameEncoding
from ftpsd.protocol.interfaces import Account, Identify
from ftpsd.protocol.replies import Refusal, Reply
from ftpsd.snapshot import Snapshot
from ftpsd.system.memory.nothing import do_nothing, never
from ftpsd.system.tls.client_certificates import ClientCertificate, client_certificate
from ftpsd.system.tls.private import handshake_facts


class ControlChannel:
    """Sends the replies of one session, and turns TLS on and off. FtpsProtocol adds the login and the idle time."""

    login: Callable[[str, str], Awaitable[Account | None]]
    identify: Identify | None
    forget_login: Callable[[], None]
    set_idle_timeout: Callable[[int], None]

    def __init__(
        self,
        connection: ControlConnection,
        route: Route,
        implicit: bool,
        snapshot: Snapshot,
        events: SessionEvents,
        drop_unread: Callable[[], bool],
    ) -> None:
        here = connection.getHost()
        self.client = route.client
        #: The address of this machine. It is that of `server`, unless a proxy is in between.
        self.local: Address = plain_address(here.host, getattr(here, "scopeID", 0))
        self.server = route.server or self.local
        self.implicit = implicit
        #: Whether the session has ended: nothing is sent any more.
        self.ended = False
        self.now = snapshot.now
        self.names: NameEncoding = UTF8
        self._drop_unread = drop_unread
        self._connection = connection
        self._contexts = snapshot.contexts
        self._context: SSL.Context | None = None
        #: The certificate that the client has shown in the last handshake.
        self._certificate: ClientCertificate | None = None
        self._tls = snapshot.settings.tls
        self._events = events
        self._steps: list[Callable[[], None]] = []

    # --- replies ---------------------------------------------------------------------------------

    def send_reply(self, reply: Reply) -> None:
        """Send a reply."""
        if not self.ended:
            self._connection.write(reply.encode(self.names))

    def call_after_reply(self, step: Callable[[], None]) -> None:
        """Call a function after the final reply of the command that runs."""
        self._steps.append(step)

    def reply_sent(self) -> None:
        """Call the functions that were to be called after the final reply, which was sent."""
        if not self._steps:
            return
        steps, self._steps = self._steps, []
        for step in steps:
            if not self.ended:
                step()

    def connection_lost(self) -> None:
        """Free the TLS context, and what the session has given to this object.

        A command that still runs is answered to nobody, and logs nobody in. Data connections that still run have the
        context themselves.
        """
        self.ended = True
        self._context = None
        self._drop_unread = never
        self.login, self.identify, self.forget_login = _refuse_login, None, do_nothing
        self.set_idle_timeout = do_nothing

    def close(self) -> None:
        """Close the connection when all replies are sent."""
        self.ended = True
        self._connection.loseConnection()

    # --- TLS -------------------------------------------------------------------------------------

    @property
    def encrypted(self) -> bool:
        """Whether the control connection is encrypted."""
        return self._connection.tls is not None

    @property
    def tls_name(self) -> str:
        """The host name that the client sent in its TLS handshake (SNI)."""
        engine = self._connection.tls
        return "" if engine is None else engine.server_name

    @property
    def tls_version(self) -> str | None:
        """The TLS version of the control connection, such as "TLSv1.3"; None for plain text."""
        engine = self._connection.tls
        return None if engine is None else engine.version

    @property
    def in_handshake(self) -> bool:
        """Whether a TLS handshake runs."""
        engine = self._connection.tls
        return engine is not None and engine.state is TlsState.HANDSHAKE

    def start_tls(self, host: str = "") -> None:
        """Start TLS, with a context that belongs to this session only, and the certificate for `host`."""
        if self._drop_unread():
            # What a man in the middle has inserted after AUTH would be obeyed inside TLS (CVE-2011-0411).
            self._events.publish(PlainTextAfterAuth(self._events.session))
            self.ended = True
            self._connection.abortConnection()
            return
        self._context = self._contexts(host, self.server)
        self._connection.start_tls(self._context)

    def tls_established(self) -> None:
        """A handshake is complete."""
        engine, clients = self._connection.tls, self._contexts.clients
        assert engine is not None
        self._events.tls_established(*handshake_facts(engine.connection))
        if clients is not None:
            self._certificate = client_certificate(engine.connection, clients.source)

    @property
    def certificate(self) -> ClientCertificate | None:
        """The verified certificate of the client; None if it has none, or continues in plain text."""
        return self._certificate if self.encrypted else None

    def stop_tls(self) -> None:
        """Continue in plain text. Data connections keep the context for PROT P."""
        self._connection.stop_tls()

    def data_security(self, account: Account | None) -> Security:
        """Return the context for a data connection with PROT P, and a check of its handshake that raises Refusal."""
        if self._context is None:
            raise Refusal(503, "Send AUTH TLS first.")
        policy = account.data_session if account is not None else self._tls.data_session
        check: Check = require_resumption if policy == "require" else accept_any
        if self._contexts.clients is not None:
            own = self._certificate
            check = require_certificate(None if own is None else own.fingerprint, check)
        return Security(self._context, self._events.counted(check, handshake_facts), policy == "require")


# --- what a session does when its connection is lost ---------------------------------------------


async def _refuse_login(user: str, password: str) -> Account | None:
    raise Refusal(421, "Session has ended.")
