"""What the TLS handshake of a data connection must have in common with that of its control connection."""

from __future__ import annotations

from OpenSSL import SSL

from ftpsd.data.handshakes import Check
from ftpsd.protocol.replies import NoDataConnection
from ftpsd.system.tls.client_certificates import peer_fingerprint
from ftpsd.system.tls.private import resumed


def require_resumption(connection: SSL.Connection) -> None:
    """Check a handshake with `data_session: require`. The ticket of another session does not resume."""
    if not resumed(connection):
        raise NoDataConnection(
            "not_resumed",
            522,
            "The data connection must resume the TLS session of its control connection. "
            "(data_session: allow, for all or for one user, admits clients that cannot do this.)",
        )


def accept_any(_: SSL.Connection) -> None:
    """Check a handshake with `data_session: allow` or `off`: accept it."""


def require_certificate(fingerprint: str | None, check: Check) -> Check:
    """Return a check for the client certificate of the control connection, or for none (None), after another check.

    A session that is resumed has the certificate of its first handshake.
    """

    def compare(connection: SSL.Connection) -> None:
        check(connection)
        if peer_fingerprint(connection) != fingerprint:
            text = "The data connection must show the same client certificate as its control connection."
            raise NoDataConnection("certificate", 522, text)

    return compare
