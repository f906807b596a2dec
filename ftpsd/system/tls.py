"""Certificates to contexts, and the few things that pyOpenSSL has no public name for.

Each control session has one private context, made when its TLS starts. Its data connections use the
same one, so a ticket resumes within its own session and nowhere else: that is what binds a data
connection to its control connection, for TLS 1.2 and 1.3, without any state of ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from OpenSSL import SSL, crypto

#: For TLS 1.2: forward secrecy and AEAD only. TLS 1.3 has nothing else.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!PSK"

_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}

#: Seconds for which a ticket resumes: as long as scanners let the key of tickets be used, though ours is worth
#: nothing outside its session. With OpenSSL's two hours, a data connection was refused once a session was older
#: than that and its client still offered the ticket of the login, or when the clock was set.
_LIFETIME = 86_400

#: The protocols that ALPN may name here. Others mean that the client was led to the wrong server
#: (ALPACA, https://alpaca-attack.com): RFC 7301 section 3.2 wants a fatal alert then.
_ALPN = (b"ftp", b"ftp-data", b"x-filezilla-ftp")


# Newer releases of pyOpenSSL would rather have cryptography's objects, and turn them into these at
# every call: 156 instead of 80 microseconds for a context. The older ones take these only.
warnings.filterwarnings("ignore", "Passing pyOpenSSL (X509|PKey) objects", DeprecationWarning)


class WrongProtocol(SSL.Error):
    """The client's ALPN names no protocol that is spoken here."""

    def __init__(self, offered: Iterable[bytes]) -> None:
        names = ", ".join(name.decode("ascii", "replace") for name in offered)
        super().__init__([("ftpsd", "", f"the client speaks another protocol: {names}")])


def _choose_protocol(_: SSL.Connection, offered: list[bytes]) -> bytes:
    for name in offered:
        if name in _ALPN:
            return name
    raise WrongProtocol(offered)


@dataclass(frozen=True, slots=True)
class Identity:
    """What the server proves itself with, parsed once: a chain, the leaf first, and the leaf's key."""

    chain: tuple[crypto.X509, ...]
    key: crypto.PKey

    @property
    def leaf(self) -> x509.Certificate:
        """The server's own certificate."""
        return self.chain[0].to_cryptography()


@dataclass(frozen=True, slots=True)
class ContextMaker:
    """Makes the private context of a session. Immutable: a reload makes a new one."""

    identity: Identity
    minimum_version: str = "1.2"
    ciphers: str | None = None
    resumption: bool = True

    def suites(self) -> list[str]:
        """Return the cipher suites that are offered, by OpenSSL's names."""
        return _suites(self())

    def __call__(self) -> SSL.Context:
        """A new context; about 0.15 ms."""
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(_VERSIONS[self.minimum_version])
        context.set_options(
            SSL.OP_NO_COMPRESSION
            | SSL.OP_NO_RENEGOTIATION  # type: ignore[attr-defined]
            | SSL.OP_CIPHER_SERVER_PREFERENCE
            | SSL.OP_SINGLE_ECDH_USE
        )
        # An idle session must not keep 32 KiB of record buffers.
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_cipher_list((self.ciphers or CIPHERS).encode())
        context.use_certificate(self.identity.chain[0])
        for certificate in self.identity.chain[1:]:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(self.identity.key)
        context.set_alpn_select_callback(_choose_protocol)
        if self.resumption:
            context.set_session_id(b"ftpsd")
            context.set_timeout(_LIFETIME)
        else:
            context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
            context.set_options(SSL.OP_NO_TICKET)
        whole_writes(context)
        return context


def _suites(context: SSL.Context) -> list[str]:
    return list(SSL.Connection(context).get_cipher_list())


def whole_writes(context: SSL.Context) -> None:
    """Lets one `send` write all of its records: pyOpenSSL asks for returns after each of them (16 KiB)."""
    clear = getattr(SSL._lib, "SSL_CTX_clear_mode", None)  # type: ignore[attr-defined]
    if clear is not None:
        clear(context._context, SSL._lib.SSL_MODE_ENABLE_PARTIAL_WRITE)  # type: ignore[attr-defined]


def resumed(connection: SSL.Connection) -> bool:
    """Whether the handshake resumed a session. pyOpenSSL has no public name for it (its issue 1244)."""
    return bool(SSL._lib.SSL_session_reused(connection._ssl))  # type: ignore[attr-defined]


class NotTls(SSL.Error):
    """Bytes of the peer do not begin like a TLS record."""

    def __init__(self) -> None:
        super().__init__([("ftpsd", "", "the client has sent something that is not TLS")])


#: A record header (RFC 8446 section 5.1) has a type, a version and a length.
HEADER = 5

#: Alerts of the level "fatal": unexpected_message in plain text, and a header that makes OpenSSL write one.
_UNEXPECTED_MESSAGE = b"\x15\x03\x01\0\x02\x02\x0a"
_WRONG_HEADER = b"\x17\0\0\0\0"


#: The first two bytes of a record, as far as they have come: a known type, then version 3.x (RFC 8446 section 5.1).
RECORD_STARTS = frozenset(bytes([kind, 3])[:length] for kind in range(20, 24) for length in range(3))


def refuse_garbage(connection: SSL.Connection) -> bytes:
    """Return the alert for a peer that has sent something else than TLS.

    OpenSSL must write the alert, since only it can encrypt. It gets a header of our own: from the peer's
    bytes it would wait for the rest of a record. If nothing was read before, OpenSSL writes no alert.
    """
    connection.bio_write(_WRONG_HEADER)
    try:
        connection.recv(1)
    except SSL.Error:
        pass
    try:
        return connection.bio_read(2**14)
    except SSL.Error:
        return _UNEXPECTED_MESSAGE


def describe(error: SSL.Error) -> str:
    """What OpenSSL says of a failure, in one line."""
    if isinstance(error, SSL.SysCallError):
        return "the connection was cut"
    if isinstance(error, SSL.ZeroReturnError):
        return "the peer closed TLS"
    queue = error.args[0] if error.args else None
    reasons = [str(entry[-1]) for entry in queue] if isinstance(queue, list) else [str(queue or "")]
    text = "; ".join(reason for reason in reasons if reason)
    return text or "the connection was cut"


def is_close_notify(connection: SSL.Connection, error: SSL.Error) -> bool:
    """Tell whether a read failed because the peer ended TLS with close_notify.

    Java sends a user_canceled alert first. After one, OpenSSL reports the close_notify of TLS 1.3 like an end
    without any: with SSL_ERROR_SYSCALL (openssl/openssl#25254). Only the shutdown state differs. A fatal alert
    sets the same state, but has a reason in the error queue.
    """
    if isinstance(error, SSL.ZeroReturnError):
        return True
    return is_end_of_file(error) and bool(connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN)


def is_end_of_file(error: SSL.Error) -> bool:
    """Whether a read failed because the stream ended without close_notify.

    OpenSSL 1.1 and pyOpenSSL say SysCallError(-1, "Unexpected EOF"), OpenSSL 3 has a reason of its
    own, OpenSSL 4 an empty queue.
    """
    if isinstance(error, SSL.SysCallError):
        return "unexpected eof" in str(error.args[-1]).lower()
    queue = error.args[0] if error.args else []
    return not queue or "unexpected eof" in str(queue[-1][-1]).lower()


def decrypt(connection: SSL.Connection, buffer: memoryview) -> tuple[int, SSL.Error | None]:
    """Decrypts all records that are there into a buffer: how many bytes, and what ended it.

    `Connection.recv_into` allocates and copies for each record of 16 KiB, which is more work than the
    record itself; this gives OpenSSL the buffer. It is released before anything is raised: a cycle of
    exceptions and frames that holds an exported memoryview crashes the collector of CPython 3.11.
    """
    lib, ssl = SSL._lib, connection._ssl  # type: ignore[attr-defined]
    filled, size = 0, len(buffer)
    with SSL._ffi.from_buffer("char[]", buffer) as start:  # type: ignore[attr-defined]
        while filled < size:
            count = lib.SSL_read(ssl, start + filled, size - filled)
            if count <= 0:
                break
            filled += count
        else:
            return filled, None
    try:
        connection._raise_ssl_error(ssl, count)  # type: ignore[attr-defined]
    except SSL.Error as error:
        return filled, error.with_traceback(None)
    raise AssertionError("SSL_read ended without a reason")


def move_to_socket(connection: SSL.Connection, descriptor: int) -> None:
    """From memory to a socket, behind the handshake; what was in memory and not read is gone."""
    SSL._lib.SSL_set_fd(connection._ssl, descriptor)  # type: ignore[attr-defined]
    connection._into_ssl = connection._from_ssl = None  # freed by OpenSSL


def close(connection: SSL.Connection) -> None:
    """Makes a close_notify, if the connection is in a state for one."""
    try:
        connection.shutdown()
    except SSL.Error:
        pass
