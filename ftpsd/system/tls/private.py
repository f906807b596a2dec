"""Everything that pyOpenSSL has no public name for.

Its private names (`_lib`, `_ffi`, `_ssl`, `_context`, `_raise_ssl_error`) are used in this module only. If a release
removes them, `decrypt` and `whole_writes` do without, more slowly. For the others, an ImportError names them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version

from cryptography import x509
from OpenSSL import SSL, crypto

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


def free_callbacks(context: SSL.Context) -> None:
    """Let the callbacks of a context for ALPN and for certificates be freed with it.

    pyOpenSSL's helpers and their callbacks refer to each other, so only a full garbage collection would free them. The
    context has the callback itself: the helper needs it no longer. Without the private names nothing changes.
    """
    for name in ("_alpn_select", "_verify"):
        helper, callback = getattr(context, f"{name}_helper", None), getattr(context, f"{name}_callback", None)
        if helper is not None and callback is not None and getattr(helper, "callback", None) is callback:
            helper.callback = None


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


def share_store(
    authorities: Sequence[crypto.X509], revocations: Sequence[x509.CertificateRevocationList]
) -> Callable[[SSL.Context], None]:
    """Return a function that lets a context verify its peers' certificates with these authorities and lists.

    All contexts share one store, since a newer pyOpenSSL parses each list again when it is added to a store. An older
    one cannot share a store, but adds what was parsed before. Raises crypto.Error for a list that OpenSSL cannot read.
    """
    crl_class = getattr(crypto, "CRL", None)
    lists = [crl_class.from_cryptography(each) if crl_class is not None else each for each in revocations]

    def fill(store: crypto.X509Store) -> None:
        for authority in authorities:
            store.add_cert(authority)
        for each in lists:
            store.add_crl(each)
        if lists:
            store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)

    def fill_own(context: SSL.Context) -> None:
        store = context.get_cert_store()
        assert store is not None
        fill(store)

    if _lib is None or not hasattr(_lib, "X509_STORE_up_ref") or not hasattr(_lib, "SSL_CTX_set_cert_store"):
        return fill_own
    shared = crypto.X509Store()
    fill(shared)
    handle = shared._store

    def share(context: SSL.Context) -> None:
        _lib.X509_STORE_up_ref(handle)
        _lib.SSL_CTX_set_cert_store(context._context, handle)

    return share
