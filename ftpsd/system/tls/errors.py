"""Errors of TLS in words, alerts for the peer, and how a connection ended."""

from __future__ import annotations

from OpenSSL import SSL


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
