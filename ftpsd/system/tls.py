"""TLS contexts from certificates, and everything that pyOpenSSL has no public name for.

Each session has a private context, made when its TLS starts. Its data connections use the same context, so a ticket
resumes within its own session and nowhere else. That binds a data connection to its control connection, in TLS 1.2 and
1.3, and the daemon keeps no state for it.

Private names of pyOpenSSL (`_lib`, `_ffi`, `_ssl`, `_context`, `_raise_ssl_error`) are used in this module only. If a
release removes them, `decrypt` and `whole_writes` do without, more slowly. For the others, an ImportError names them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version

from OpenSSL import SSL, crypto

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
class Identity:
    """The certificate chain, the server's own certificate first, and its private key. Both are parsed once."""

    chain: tuple[crypto.X509, ...]
    key: crypto.PKey


@dataclass(frozen=True, slots=True)
class ContextMaker:
    """Makes the private contexts of sessions. Immutable: a reload makes a new one."""

    identity: Identity
    minimum_version: str = "1.2"
    ciphers: str | None = None
    resumption: bool = True

    def suites(self) -> list[str]:
        """Return the OpenSSL names of the cipher suites that are offered."""
        return list(SSL.Connection(self()).get_cipher_list())

    def __call__(self) -> SSL.Context:
        """Return a new context. This takes about 0.15 ms."""
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


# --- private names of pyOpenSSL ----------------------------------------------------------------------

_lib = getattr(SSL, "_lib", None)
_ffi = getattr(SSL, "_ffi", None)


def library_versions() -> dict[str, str]:
    """Return the versions of pyOpenSSL and OpenSSL."""
    return {"pyopenssl": version("pyOpenSSL"), "openssl": SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode().split()[1]}


def missing_names(lib: object) -> list[str]:
    """Return the private names that are needed, and that this release of pyOpenSSL does not have."""
    missing = [name for name in ("SSL_session_reused", "SSL_set_fd") if not hasattr(lib, name)]
    connection = SSL.Connection(SSL.Context(SSL.TLS_SERVER_METHOD), None)
    return missing if hasattr(connection, "_ssl") else [*missing, "Connection._ssl"]


def require_names(lib: object) -> None:
    """Raise ImportError, with a remedy, if a private name is missing that has no replacement."""
    if missing := missing_names(lib):
        raise ImportError(
            f"ftpsd cannot use this release of pyOpenSSL, {version('pyOpenSSL')}: it has no {', '.join(missing)}. "
            "Install an older release: pip install 'pyOpenSSL<27'"
        )


require_names(_lib)


def whole_writes(context: SSL.Context) -> None:
    """Let one `send` write all of its records. pyOpenSSL makes it return after each record (16 KiB).

    Without the private names nothing changes: `send` is then called once for each record.
    """
    clear, handle = getattr(_lib, "SSL_CTX_clear_mode", None), getattr(context, "_context", None)
    if clear is not None and handle is not None:
        clear(handle, 1)  # SSL_MODE_ENABLE_PARTIAL_WRITE in openssl/ssl.h


def resumed(connection: SSL.Connection) -> bool:
    """Return whether the handshake resumed a session. pyOpenSSL has no public name for it (its issue 1244)."""
    return bool(_lib.SSL_session_reused(connection._ssl))  # type: ignore[attr-defined,union-attr]


def handshake_facts(connection: SSL.Connection) -> tuple[str, bool]:
    """Return the TLS version ("TLSv1.3") of a connection, and whether its handshake resumed a session."""
    return connection.get_protocol_version_name(), resumed(connection)


def move_to_socket(connection: SSL.Connection, descriptor: int) -> None:
    """Let OpenSSL use a socket instead of memory, after the handshake. Bytes in memory are discarded."""
    _lib.SSL_set_fd(connection._ssl, descriptor)  # type: ignore[attr-defined,union-attr]
    connection._into_ssl = connection._from_ssl = None  # freed by OpenSSL


def decrypt_in_place(connection: SSL.Connection, buffer: memoryview) -> tuple[int, SSL.Error | None]:
    """Decrypt all records that have arrived into a buffer. Return the number of bytes, and the error that ended it.

    `Connection.recv_into` allocates and copies for each record of 16 KiB, which is more work than the record itself.
    This gives OpenSSL the buffer. The buffer is released before anything is raised: a cycle of exceptions and
    frames that holds an exported memoryview crashes the garbage collector of CPython 3.11.
    """
    lib, ssl = _lib, connection._ssl  # type: ignore[attr-defined]
    filled, size = 0, len(buffer)
    with _ffi.from_buffer("char[]", buffer) as start:  # type: ignore[union-attr]
        while filled < size:
            count = lib.SSL_read(ssl, start + filled, size - filled)  # type: ignore[union-attr]
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


def decrypt_by_record(connection: SSL.Connection, buffer: memoryview) -> tuple[int, SSL.Error | None]:
    """Do the same as `decrypt_in_place`, with public names only."""
    filled = 0
    try:
        while filled < len(buffer):
            filled += connection.recv_into(buffer[filled:])
    except SSL.Error as error:
        return filled, error.with_traceback(None)
    return filled, None


_can_decrypt_in_place = (
    hasattr(_lib, "SSL_read") and hasattr(_ffi, "from_buffer") and hasattr(SSL.Connection, "_raise_ssl_error")
)
decrypt = decrypt_in_place if _can_decrypt_in_place else decrypt_by_record


# --- errors and alerts -------------------------------------------------------------------------------


class NotTls(SSL.Error):
    """The peer has sent bytes that do not begin like a TLS record."""

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
    """Return the alert for a peer that has sent bytes that are not TLS.

    OpenSSL must write the alert, since only OpenSSL can encrypt it. It is given a wrong header: with the peer's bytes
    it would wait for the rest of a record. If OpenSSL has read nothing before, it writes no alert.
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
    """Return OpenSSL's description of an error, in one line."""
    if isinstance(error, SSL.SysCallError):
        return "the connection was cut"
    if isinstance(error, SSL.ZeroReturnError):
        return "the peer closed TLS"
    queue = error.args[0] if error.args else None
    reasons = [str(entry[-1]) for entry in queue] if isinstance(queue, list) else [str(queue or "")]
    text = "; ".join(reason for reason in reasons if reason)
    return text or "the connection was cut"


def is_close_notify(connection: SSL.Connection, error: SSL.Error) -> bool:
    """Return whether a read failed because the peer ended TLS with close_notify.

    Java sends a user_canceled alert first. After that alert, OpenSSL reports the close_notify of TLS 1.3 like an end
    without close_notify: with SSL_ERROR_SYSCALL (openssl/openssl#25254). Only the shutdown state differs. A fatal alert
    sets the same state, but leaves a reason in the error queue.
    """
    if isinstance(error, SSL.ZeroReturnError):
        return True
    return is_end_of_file(error) and bool(connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN)


def is_end_of_file(error: SSL.Error) -> bool:
    """Return whether a read failed because the stream ended without close_notify.

    OpenSSL 1.1 and pyOpenSSL raise SysCallError(-1, "Unexpected EOF"), OpenSSL 3 has a reason in the error queue,
    OpenSSL 4 an empty queue.
    """
    if isinstance(error, SSL.SysCallError):
        return "unexpected eof" in str(error.args[-1]).lower()
    queue = error.args[0] if error.args else []
    return not queue or "unexpected eof" in str(queue[-1][-1]).lower()


def close(connection: SSL.Connection) -> None:
    """Write a close_notify, if the state of the connection allows it."""
    try:
        connection.shutdown()
    except SSL.Error:
        pass
