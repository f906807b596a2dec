"""Find out why a server cannot be reached. libldap says “Can't contact LDAP server” for every fault of TLS."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import unquote, urlsplit

from ftpsd.accounts.sources.deadline import Deadline
from ftpsd.accounts.sources.ldap.connection import ServerFailed, Tls

#: The request for StartTLS (RFC 4511 section 4.14) as message 1.
_START_TLS = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037"

_PORTS = {"ldap": 389, "ldaps": 636}


def explain(url: str, tls: Tls, deadline: Deadline) -> str | None:
    """Return why a connection to a server fails; None if it does not, or not within the time."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "ldapi":
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(deadline.left())
                connection.connect(unquote(parts.netloc))
            return None
        host = parts.hostname or ""
        with socket.create_connection((host, parts.port or _PORTS[parts.scheme]), deadline.left()) as connection:
            if tls.start:
                connection.sendall(_START_TLS)
                connection.recv(4096)
            if tls.start or parts.scheme == "ldaps":
                context = ssl.create_default_context(cafile=tls.authorities)
                context.wrap_socket(connection, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        return f"the certificate is not accepted: {error.verify_message}"
    except ssl.SSLError as error:
        return f"the TLS handshake fails: {error.reason or error}"
    except (TimeoutError, ServerFailed):
        return None
    except OSError as error:
        return error.strerror or str(error)
    return None
