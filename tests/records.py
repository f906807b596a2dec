"""A TLS client that writes records of its own, such as the alerts of Java, which Python's `ssl` never sends.

`ssl` does the handshake and reads. After the handshake this client encrypts what it sends, with keys that it
derives from the key log (RFC 8446 section 7.3, RFC 5246 section 6.3).
"""

from __future__ import annotations

import hmac
import select
import socket
import ssl
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

ALERT, APPLICATION_DATA = 21, 23

#: Level and description of alerts (RFC 8446 section 6).
CLOSE_NOTIFY = b"\x01\x00"
USER_CANCELED = b"\x01\x5a"
HANDSHAKE_FAILURE = b"\x02\x28"


class RecordClient:
    """One TLS connection, with the methods of a socket that `FtpClient` uses.

    The suite must be AES-GCM, which the daemon prefers.
    """

    def __init__(
        self, connection: socket.socket, context: ssl.SSLContext, key_log: Path, session: ssl.SSLSession | None = None
    ) -> None:
        self.raw = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._server_hello = b""
        key_log.unlink(missing_ok=True)
        context.keylog_filename = str(key_log)
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost", session=session)
        self._handshake()
        self._derive_keys(key_log)

    def _handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.raw.sendall(self._outgoing.read())
                self._server_hello = self._server_hello or self._fill()
                if not self._incoming.pending:
                    self._fill()
        self.raw.sendall(self._outgoing.read())

    def _fill(self) -> bytes:
        data = self.raw.recv(65536)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return data

    def _derive_keys(self, key_log: Path) -> None:
        suite, _, bits = self.tls.cipher() or ("", "", 0)
        length, digest = bits // 8, "sha384" if suite.endswith("SHA384") else "sha256"
        lines = [line.split() for line in key_log.read_text().splitlines() if not line.startswith("#")]
        secrets = {label: (bytes.fromhex(random), bytes.fromhex(secret)) for label, random, secret in lines}
        if self.tls.version() == "TLSv1.3":
            _, secret = secrets["CLIENT_TRAFFIC_SECRET_0"]
            self._key, self._iv = (
                _expand_label(secret, b"key", length, digest),
                _expand_label(secret, b"iv", 12, digest),
            )
            self._number = 0
        else:
            client_random, master = secrets["CLIENT_RANDOM"]
            server_random = self._server_hello[11:43]  # after the headers of record and message, and the version
            block = _expand_1_2(master, b"key expansion" + server_random + client_random, 2 * length + 8, digest)
            self._key, self._iv = block[:length], block[2 * length : 2 * length + 4]
            self._number = 1  # Finished was the first record with these keys

    def record(self, kind: int, data: bytes) -> bytes:
        """Encrypt a record."""
        number, self._number = self._number.to_bytes(8, "big"), self._number + 1
        if self.tls.version() == "TLSv1.3":
            inner = data + bytes([kind])
            header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
            nonce = bytes(a ^ b for a, b in zip(self._iv, bytes(4) + number, strict=True))
            return header + AESGCM(self._key).encrypt(nonce, inner, header)
        header = bytes([kind]) + b"\x03\x03"
        sealed = AESGCM(self._key).encrypt(self._iv + number, data, number + header + len(data).to_bytes(2, "big"))
        return header + (len(sealed) + 8).to_bytes(2, "big") + number + sealed

    def sendall(self, data: bytes) -> None:
        """Send application data in one record."""
        self.raw.sendall(self.record(APPLICATION_DATA, data))

    def alert(self, *alerts: bytes) -> None:
        """Send alerts, each in a record, all in one segment."""
        self.raw.sendall(b"".join(self.record(ALERT, alert) for alert in alerts))

    def recv(self, count: int) -> bytes:
        """Return what the server has sent; empty at its close_notify."""
        while True:
            try:
                return self.tls.read(count)
            except ssl.SSLWantReadError:
                self._fill()
            except ssl.SSLZeroReturnError:
                return b""

    def is_silent(self, seconds: float) -> bool:
        """Tell whether nothing comes for so long, a close_notify included."""
        if select.select([self.raw], [], [], seconds)[0]:
            self._fill()
        try:
            self.tls.read(1)
        except ssl.SSLWantReadError:
            return True
        except ssl.SSLZeroReturnError:
            pass
        return False

    def close(self) -> None:
        """Close the socket, without an alert."""
        self.raw.close()


def _expand_label(secret: bytes, label: bytes, length: int, digest: str) -> bytes:
    """HKDF-Expand-Label (RFC 8446 section 7.1)."""
    full = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes([len(full)]) + full + b"\0"
    return HKDFExpand(hashes.SHA384() if digest == "sha384" else hashes.SHA256(), length, info).derive(secret)


def _expand_1_2(secret: bytes, seed: bytes, length: int, digest: str) -> bytes:
    """P_hash (RFC 5246 section 5)."""
    result, step = b"", seed
    while len(result) < length:
        step = hmac.digest(secret, step, digest)
        result += hmac.digest(secret, step + seed, digest)
    return result[:length]
