"""The program of the peer pyftpdlib, run by the Python of its own virtual environment; it imports nothing of ours.

Arguments: address, port, first and last passive port, certificate with key, home, user, hash of the password.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import logging
import sys

from OpenSSL import SSL
from pyftpdlib.authorizers import AuthenticationFailed, DummyAuthorizer
from pyftpdlib.handlers import TLS_FTPHandler
from pyftpdlib.servers import FTPServer

CRYPT = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1").crypt
CRYPT.restype = ctypes.c_char_p


class HashAuthorizer(DummyAuthorizer):  # type: ignore[misc]  # pyftpdlib has no types
    """Its authorizer, with hashes of crypt(3) in the place of plain passwords."""

    def validate_authentication(self, username: str, password: str, handler: object) -> None:
        """Raise unless the password is the user's."""
        known = self.user_table.get(username, {}).get("pwd", "*")
        if CRYPT(password.encode(), known.encode()) != known.encode():
            raise AuthenticationFailed("Authentication failed.")


def main() -> None:
    """Serve until told to end."""
    host, port, first, last, certificate, home, user, password_hash = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING)
    authorizer = HashAuthorizer()
    authorizer.add_user(user, password_hash, home, perm="elradfmwMT")
    handler = TLS_FTPHandler
    handler.authorizer = authorizer
    handler.certfile = certificate
    handler.ssl_protocol = SSL.TLS_SERVER_METHOD
    handler.tls_control_required = True
    handler.passive_ports = list(range(int(first), int(last) + 1))
    server = FTPServer((host, int(port)), handler)
    server.max_cons = server.max_cons_per_ip = 5000
    server.serve_forever()


if __name__ == "__main__":
    main()
