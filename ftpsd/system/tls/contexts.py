"""TLS contexts from certificates: ContextMaker.

Each session has a private context, made when its TLS starts. Its data connections use the same context, so a ticket
resumes within its own session and nowhere else. That binds a data connection to its control connection, in TLS 1.2 and
1.3, and the daemon keeps no state for it.

If the client names a host whose certificate is another one, its connections switch to a second context of the session.
Tickets stay with the first context: OpenSSL keeps their key in the context that a connection began with.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from OpenSSL import SSL

from ftpsd.protocol.addresses import Address
from ftpsd.system.tls.certificates import Certificates, Choice
from ftpsd.system.tls.client_certificates import ClientVerifier
from ftpsd.system.tls.private import free_callbacks, whole_writes

#: For TLS 1.2: forward secrecy and AEAD only. TLS 1.3 has nothing else.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!PSK"

_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}

#: Seconds for which a ticket resumes: the longest lifetime of a ticket key that TLS scanners accept. With OpenSSL's two
#: hours, data connections were refused in older sessions whose client still offered the ticket of the login, or when
#: the clock was set. A longer lifetime is no risk: the key is worth nothing outside its session.
_LIFETIME = 86_400

#: The protocols that ALPN may name. Any other means that the client was led to the wrong server (ALPACA,
#: https://alpaca-attack.com). RFC 7301 section 3.2 requires a fatal alert then.
_ALPN = (b"ftp", b"ftp-data", b"x-filezilla-ftp")


# Newer releases of pyOpenSSL prefer cryptography's objects, but convert them at every call: a context costs 156 instead
# of 80 microseconds then. Older releases accept pyOpenSSL's own objects only.
warnings.filterwarnings("ignore", "Passing pyOpenSSL (X509|PKey) objects", DeprecationWarning)


class WrongProtocol(SSL.Error):
    """The client's ALPN names no protocol that the daemon speaks."""

    def __init__(self, offered: Iterable[bytes]) -> None:
        names = ", ".join(name.decode("ascii", "replace") for name in offered)
        super().__init__([("ftpsd", "", f"the client speaks another protocol: {names}")])


def _choose_protocol(_: SSL.Connection, offered: list[bytes]) -> bytes:
    for name in offered:
        if name in _ALPN:
            return name
    raise WrongProtocol(offered)


@dataclass(frozen=True, slots=True)
class ContextMaker:
    """Makes the private contexts of sessions. Immutable: a reload makes a new one."""

    certificates: Certificates
    minimum_version: str = "1.2"
    ciphers: str | None = None
    resumption: bool = True
    #: Verifies the certificates of clients; None: they are not asked for any.
    clients: ClientVerifier | None = None

    def trusts(self, other: ContextMaker) -> bool:
        """Return whether the same certificates of clients are valid as with another maker."""
        if self.clients is None or other.clients is None:
            return self.clients is other.clients
        return self.clients.identity == other.clients.identity

    def suites(self) -> list[str]:
        """Return the OpenSSL names of the cipher suites that are offered."""
        return list(SSL.Connection(self()).get_cipher_list())

    def __call__(self, host: str = "", address: Address | None = None) -> SSL.Context:
        """Return a new context. This takes about 0.15 ms.

        It shows the certificate for `host`, or else for the server's address, unless the handshake names a host.
        """
        choice = self.certificates.find(host) or self.certificates.default(address)
        context = self._context(choice)
        if not self.certificates.is_single:
            context.set_tlsext_servername_callback(self._switch(choice))
        return context

    def _switch(self, begun: Choice) -> Callable[[SSL.Connection], None]:
        """Return the callback that switches a connection to the certificate of the host that its client names."""
        contexts: dict[Choice, SSL.Context] = {}

        def switch(connection: SSL.Connection) -> None:
            name = connection.get_servername()
            choice = None if name is None else self.certificates.find(name.decode("ascii", "replace"))
            if choice is not None and choice is not begun:
                if choice not in contexts:
                    contexts[choice] = self._context(choice)
                connection.set_context(contexts[choice])

        return switch

    def _context(self, choice: Choice) -> SSL.Context:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(_VERSIONS[self.minimum_version])
        context.set_options(
            SSL.OP_NO_COMPRESSION
            | SSL.OP_NO_RENEGOTIATION  # type: ignore[attr-defined]
            | SSL.OP_CIPHER_SERVER_PREFERENCE
            | SSL.OP_SINGLE_ECDH_USE
        )
        # Otherwise each idle session keeps 32 KiB of record buffers.
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_cipher_list((self.ciphers or CIPHERS).encode())
        for identity in choice.identities:
            context.use_certificate(identity.chain[0])
            context.use_privatekey(identity.key)
        for certificate in choice.intermediates:
            context.add_extra_chain_cert(certificate)
        context.set_alpn_select_callback(_choose_protocol)
        if self.clients is not None:
            self.clients.attach(context)
        if self.resumption:
            context.set_session_id(b"ftpsd")
            context.set_timeout(_LIFETIME)
        else:
            context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
            context.set_options(SSL.OP_NO_TICKET)
        whole_writes(context)
        free_callbacks(context)
        return context
