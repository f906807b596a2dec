"""Try handshakes in memory: whether a client's first message would resume a session, or whether a private key works."""

from __future__ import annotations

from contextlib import suppress

from OpenSSL import SSL, crypto

from ftpsd.system.tls.private import resumed

#: Turns in which a handshake is complete, and the most bytes that one side sends in a turn.
_MOST_TURNS, _MOST_BYTES = 10, 1 << 20


def would_resume(context: SSL.Context, hello: bytes) -> bool:
    """Return whether a ClientHello resumes a session of this context. Takes 0.03 to 0.5 ms; for worker threads.

    OpenSSL decides that before it answers, and the answer is discarded. It does not mark tickets as used, and it
    forgets a session in its cache (TLS 1.2 without tickets) only if the connection ends without close_notify.
    """
    trial = SSL.Connection(context, None)
    trial.set_accept_state()
    trial.bio_write(hello)
    try:
        trial.do_handshake()
    except SSL.WantReadError:
        return resumed(trial)
    except SSL.Error:
        return False
    finally:
        trial.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
    return resumed(trial)


def works(certificate: crypto.X509, key: crypto.PKey) -> bool:
    """Return whether a handshake with a certificate and a private key works. Takes 3 ms; other threads run meanwhile.

    If it does not, the key may be damaged, but there are other reasons: a client may refuse how a certificate is used.
    """
    contexts = SSL.Context(SSL.TLS_SERVER_METHOD), SSL.Context(SSL.TLS_CLIENT_METHOD)
    try:
        for context in contexts:
            context.set_cipher_list(b"ALL:@SECLEVEL=0")
        contexts[0].use_certificate(certificate)
        contexts[0].use_privatekey(key)
        server, client = (SSL.Connection(context) for context in contexts)
        server.set_accept_state()
        client.set_connect_state()
        for _ in range(_MOST_TURNS):
            if _advance(client, server):
                return True
            _advance(server, client)
    except SSL.Error:
        pass
    return False


def _advance(own: SSL.Connection, other: SSL.Connection) -> bool:
    """Let one side of a handshake continue, and pass on what it sends. Return whether its handshake is complete."""
    try:
        own.do_handshake()
        is_complete = True
    except SSL.WantReadError:
        is_complete = False
    with suppress(SSL.WantReadError):  # it sends nothing
        other.bio_write(own.bio_read(_MOST_BYTES))
    return is_complete
